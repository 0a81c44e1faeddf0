"""Damaged metadata CSVs, zip files and dataset.json: each is refused in one line, or read as what it says.

SOSTENUTO_FUZZ=10000 tries that many damages of each, with SOSTENUTO_SEED as the seed. A failure names seed and number.
"""

import contextlib
import csv
import io
import json
import os
import random
import re
import unicodedata
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from beam_preprocess.config import Config
from beam_preprocess.corpus import Corpus, find_corpus
from beam_preprocess.corpus.archive import Reader
from beam_preprocess.preprocess import preprocess
from sostenuto.data.manifest import SPLITS, Manifest
from sostenuto.errors import UserError
from tests.factories import melody, write_files

COUNT = int(os.environ.get("SOSTENUTO_FUZZ") or 400)
SEED = int(os.environ.get("SOSTENUTO_SEED") or 0)

NAMES = [f"{year}/{letter}.midi" for year, letters in (("2004", "abcd"), ("2006", "efé")) for letter in letters]
MIDI = {name: melody(range(40, 45 + number)) for number, name in enumerate(NAMES)}
ROWS = [
    f'"Composer, {number % 3}",Title {number % 4},{SPLITS[number % 3]},{2000 + number},{name},,12.5'
    for number, name in enumerate(NAMES)
]
TABLE = "\n".join(["canonical_composer,canonical_title,split,year,midi_filename,audio_filename,duration", *ROWS, ""])

Damage = Callable[[str, random.Random], str | bytes]


def swap(old: str, new: str) -> Damage:
    """Returns a damage that replaces one of the places of a text."""

    def change(text: str, rng: random.Random) -> str:
        starts = [match.start() for match in re.finditer(re.escape(old), text)]
        if not starts:
            return text
        start = rng.choice(starts)
        return text[:start] + new + text[start + len(old) :]

    return change


def cut(text: str, rng: random.Random) -> str:
    start, end = sorted(rng.randrange(len(text) + 1) for _ in range(2))
    return rng.choice((text[:start], text[start:], text[:start] + text[end:], text[:end] + text[start:]))


def repeat_line(text: str, rng: random.Random) -> str:
    lines = text.splitlines(keepends=True) or [""]
    lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines))
    return "".join(lines)


# As other programs save a table.
FORMS: list[Damage] = [
    lambda text, rng: text.replace(",", rng.choice((";", "\t", "|", ", ", ",,"))),
    lambda text, rng: text.encode(
        rng.choice(("utf-16", "utf-16-le", "utf-16-be", "utf-8-sig", "latin-1", "utf-32")), "replace"
    ),
    lambda text, rng: text.replace("\n", rng.choice(("\r", "\r\n", "\n\n", "\v", "\u2028"))),
    lambda text, rng: f"sep={rng.choice(',;')}\n{text}",
    lambda text, rng: text.replace("midi_filename", rng.choice(("MIDI_Filename", " midi_filename", "midi filename"))),
    lambda text, rng: text.replace("split", rng.choice(("Split", "split ", "splits", "set"))),
    lambda text, rng: text.replace("/", rng.choice(("\\", "//", "/./", ":"))),
    lambda text, rng: unicodedata.normalize("NFD", text),
    lambda text, rng: json.dumps({"midi_filename": {"0": text}, "split": {"0": "train"}}),
]
# Of one place.
PLACES: list[Damage] = [
    *(swap(old, new) for old in SPLITS for new in (*SPLITS, "", "Train", "TEST", "train ")),
    *(
        swap(old, new)
        for old in NAMES
        for new in (*NAMES, f"./{NAMES[0]}", "", "..", "/etc/passwd", "2004", "\\", "a\0b")
    ),
    *(swap(",200", f",{new}") for new in ("", "-1", "9" * 20, "1e3", "٢٠", "２０", " 20", "²")),
    *(swap('"', new) for new in ("", '""', "'", '"' * 9)),
    *(swap(",", new) for new in ("", ",,", ";", "\t", "\0", "\n", "\r", "x" * 140_000)),
    *(cut, repeat_line),
]


def damage_table(rng: random.Random) -> bytes:
    text: str | bytes = TABLE
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        if isinstance(text, str):
            text = rng.choice(rng.choice((FORMS, PLACES, PLACES)))(text, rng)
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    return damage_bytes(data, rng) if rng.random() < 0.2 else data


def damage_bytes(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        start = rng.randrange(len(changed) + 1)
        end = min(len(changed), start + rng.choice((0, 1, 1, 2, 4, 30)))
        changed[start:end] = rng.choice(
            (b"", b"\0", b"\xff", b"\xff\xff\xff\xff", rng.randbytes(end - start), b"PK\1\2")
        )
    return bytes(changed)


@contextlib.contextmanager
def case(number: int) -> Iterator[random.Random]:
    """Names the seed and the number of a damage whose test fails."""
    try:
        yield random.Random(f"{SEED} {number}")
    except BaseException as error:
        error.add_note(f"SOSTENUTO_SEED={SEED}, damage {number} of {COUNT}")
        raise


def plain_rows(data: bytes) -> dict[str, str]:
    """Returns the splits of a table's files, without a check."""
    rows = csv.DictReader(io.StringIO(data.decode("utf-8-sig")))
    return {plain(row["midi_filename"] or ""): row["split"] for row in rows}


def plain(name: str) -> str:
    return unicodedata.normalize("NFC", os.path.normpath(name.replace("\\", "/")))


def looks_like_metadata(data: bytes) -> bool:
    head = re.split(rb"[\r\n]+", data.replace(b"\0", b""))[:3]
    words = {word for line in head for word in re.split(rb"[^a-z_0-9 ]+", line.lower())}
    if data.lstrip().startswith((b"{", b"[")):
        return b'"midi_filename"' in data
    return bool(words & {b"midi_filename", b"split"})


def check_corpus(corpus: Corpus, data: bytes) -> None:
    """Checks that a corpus has the splits that its table says; without a table, that none was passed over."""
    assert len({plain(file.path) for file in corpus.files}) == len(corpus.files) <= len(NAMES)
    if corpus.metadata is None:
        assert not looks_like_metadata(data), data
        return
    rows = plain_rows(data)
    assert {plain(file.path): file.split for file in corpus.files} == rows
    assert {file.split for file in corpus.files} == set(SPLITS)
    with Reader(corpus.archive) as reader:
        for file in corpus.files:
            assert reader.read(file.location, limit=9999) == MIDI[plain(file.path)]


def is_one_line(error: UserError) -> bool:
    return len(" ".join(str(error).split())) > 20


def test_a_damaged_table_gives_its_own_splits_or_an_error(tmp_path):
    directory = write_files(tmp_path / "in", MIDI)
    outcomes = {"read": 0, "refused": 0}
    for number in range(COUNT):
        with case(number) as rng:
            data = damage_table(rng)
            (directory / "m.csv").write_bytes(data)
            try:
                corpus = find_corpus(str(directory))
            except UserError as error:
                assert is_one_line(error)
                outcomes["refused"] += 1
            else:
                check_corpus(corpus, data)
                outcomes["read"] += corpus.metadata is not None
            # The same file named is never read otherwise.
            with contextlib.suppress(UserError):
                check_corpus(find_corpus(str(directory), metadata=str(directory / "m.csv")), data)
    assert min(outcomes.values()) > COUNT / 20, outcomes


def write_zips(directory: Path) -> list[bytes]:
    zips = []
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(directory / "x.zip", "w", compression) as archive:
            for name, data in {**MIDI, "m.csv": TABLE.encode()}.items():
                archive.writestr(f"top/{name}", data)
        zips.append((directory / "x.zip").read_bytes())
    return zips


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_a_damaged_zip_gives_its_own_files_or_an_error(tmp_path):
    zips = write_zips(tmp_path)
    originals = {f"top/{name}": data for name, data in MIDI.items()}
    for number in range(COUNT):
        with case(number) as rng:
            data = rng.choice(zips)
            directory = data.index(b"PK\1\2")
            # In its directory, where most bytes count, and in the members.
            head, tail = (data[:directory], data[directory:]) if rng.random() < 0.6 else (b"", data)
            (tmp_path / "x.zip").write_bytes(head + damage_bytes(tail, rng))
            try:
                corpus = find_corpus(str(tmp_path / "x.zip"))
                with Reader(corpus.archive) as reader:
                    contents = {file: reader.read(file.location, limit=10_000) for file in corpus.files}
            except UserError as error:
                assert is_one_line(error)
                continue
            assert {file.split for file in corpus.files} == set(SPLITS)
            for file, content in contents.items():
                # A name may be damaged; a file of a sound name has its own content.
                assert content == originals.get(file.location, content), file.location
                if corpus.metadata == "m.csv":
                    assert file.split == plain_rows(TABLE.encode())[plain(file.path)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("tables")
    write_files(directory / "in", {**MIDI, "m.csv": TABLE.encode()})
    preprocess(Config(str(directory / "in"), str(directory / "out")), quiet=True)
    return directory


def test_a_damaged_dataset_json_is_never_replaced_and_never_another_dataset(dataset):
    path = dataset / "out" / "dataset.json"
    sound, manifest = path.read_bytes(), Manifest.load(dataset / "out")
    others = {file.name: file.read_bytes() for file in path.parent.iterdir() if file != path}
    for number in range(COUNT // 4):
        with case(number) as rng:
            data = damage_bytes(sound, rng)
            path.write_bytes(data)
            try:
                found = preprocess(Config(str(dataset / "in"), str(dataset / "out")), quiet=True)
            except UserError as error:
                assert is_one_line(error)
            else:
                shards = [(shard.file, shard.bytes) for split in SPLITS for shard in found.splits[split].shards]
                assert (found.source, found.options) == (manifest.source, manifest.options)
                assert shards == [(s.file, s.bytes) for split in SPLITS for s in manifest.splits[split].shards]
            assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == {**others, path.name: data}
    path.write_bytes(sound)
