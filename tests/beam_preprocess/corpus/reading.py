"""Everything of a corpus that decides its dataset."""

from beam_preprocess.corpus.archive import Reader


def contents(corpus):
    """Returns everything of a corpus that decides its dataset."""
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
