"""A small corpus with MAESTRO's CSV, and helpers to write and read corpora."""

import zipfile

from beam_preprocess.corpus.archive import Reader
from tests.midi_files import melody

HEADER = "canonical_composer,canonical_title,split,year,midi_filename,audio_filename,duration\n"


# Quoted commas, non-ASCII letters and performances that share a piece, as in MAESTRO's own.
CSV = HEADER + (
    'Alban Berg,"Sonata, Op. 1",train,2018,2018/berg.midi,2018/berg.wav,698.66\n'
    "Frédéric Chopin,Étude,validation,2004,2004/one.midi,,12.5\n"
    "Frédéric Chopin,Étude,validation,2006,2006/two.midi,,12.5\n"
    "Franz Liszt,Mazeppa,test,2006,2006/three.midi,,1\n"
)


FILES = {
    "2018/berg.midi": melody([60]),
    "2004/one.midi": melody([61]),
    "2006/two.midi": melody([62]),
    "2006/three.midi": melody([63]),
    "README": b"no music",
}


def write_zip(path, files, top=""):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(f"{top}{name}", data)
    return path


def contents(corpus):
    """Returns everything that decides what a dataset will hold."""
    with Reader(corpus.archive) as reader:
        return [
            (
                file.path,
                file.piece,
                file.split,
                file.composer,
                file.title,
                file.year,
                reader.read(file.location, limit=99),
            )
            for file in corpus.files
        ]
