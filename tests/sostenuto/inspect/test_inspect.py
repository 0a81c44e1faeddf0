import csv
import io
import json
import os

import matplotlib.image
import numpy as np
import pytest

from beam_preprocess.config import Config
from beam_preprocess.preprocess import preprocess
from sostenuto.data.manifest import Manifest
from sostenuto.music.csv_export import NoteTable
from sostenuto.music.histograms import Histograms
from sostenuto.music.midi import read_midi
from sostenuto.music.notes import Notes, note_name
from sostenuto.music.plots import GREEN, NOTES_COLOUR, ORANGE
from sostenuto.text import file_size
from tests.factories import melody, midi_bytes, off, on, pedal, program, random_notes, tempo, write_files
from tests.pictures import picture, pixels_of
from tests.processes import run_python

# One second of rest; a piano's C4 for a second, a violin's E4 from half of it on, a piano's G4 over a change of tempo.
SONG = midi_bytes(
    [
        *(tempo(0, 500_000), program(0, 0), program(0, 40, channel=1)),
        *(on(1000, 60, 80), pedal(0, 127), on(500, 64, 60, channel=1), off(500, 60), pedal(0, 0), on(0, 67, 100)),
        *(off(1000, 64, channel=1), on(0, 36, 90, channel=9), off(10, 36, channel=9)),
        *(tempo(990, 250_000), off(2000, 67)),
    ]
)  # fmt: skip

SONG_TEXT = """\
song.mid

  length       0:04 (4.00 s); the first note sounds 1.00 s into the file
  notes        3, 0.8 a second; C4–G4; velocity 60 to 100
  instruments  Acoustic Grand Piano (2 notes), Violin (1 note), drums (1 note)
  tempo        120 from 0:00, 240 from 0:04, in quarter notes a minute
  keys         held 100% of the time, at most 2 at once
  pedal        down 25% of the time, pressed 1 time; 2 changes of controller 64
  left out     1 drum note

  quantile      5%     25%  median     75%     95%
  pitch      60 C4   60 C4   64 E4   67 G4   67 G4
  step      0.50 s  0.50 s  0.50 s  0.50 s  0.50 s
  duration  1.00 s  1.00 s  1.50 s  3.00 s  3.00 s
  velocity      60      60      80     100     100

all notes, times in seconds from the first onset
  note  pitch  name  onset  offset   step  duration  velocity
     1     60  C4    0.000   1.000  0.000     1.000        80
     2     64  E4    0.500   2.000  0.500     1.500        60
     3     67  G4    1.000   4.000  0.500     3.000       100
"""


def inspect(*arguments, **environment):
    # At any width of the terminal that runs the tests.
    return run_python("-m", "sostenuto.inspect", *map(str, arguments), **{"COLUMNS": "", **environment})


def shown(*arguments, **environment) -> str:
    process = inspect(*arguments, **environment)
    assert process.returncode == 0, process.stderr
    assert all(line.startswith(("listing gs://", "drawing ")) for line in process.stderr.splitlines())
    return process.stdout


def rejected(*arguments) -> str:
    """The one line that a mistake gets."""
    process = inspect(*arguments)
    assert process.returncode == 2
    (line,) = process.stderr.splitlines()
    return line


def read_csv(path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def notes_of(rows: list[dict[str, str]]) -> Notes:
    def microseconds(column: str) -> np.ndarray:
        return np.array([round(float(row[column]) * 1e6) for row in rows], np.int64)

    notes = Notes(
        np.array([int(row["pitch"]) for row in rows]),
        microseconds("step"),
        microseconds("duration"),
        np.array([int(row["velocity"]) for row in rows]),
    )
    assert np.array_equal(microseconds("onset"), notes.onset_us)
    assert np.array_equal(microseconds("offset"), notes.offset_us)
    assert [row["name"] for row in rows] == [note_name(int(pitch)) for pitch in notes.pitch]
    return notes


def test_a_file_is_shown_as_it_is(tmp_path):
    write_files(tmp_path, {"song.mid": SONG})
    text = shown(tmp_path / "song.mid", f"--output={tmp_path / 'look'}", f"--csv={tmp_path / 'tables' / 'song.csv'}")
    drawn = [f"drawn: {tmp_path / 'look' / name}" for name in ("piano-roll.png", "distributions.png")]
    assert text.removeprefix(f"{tmp_path}/") == SONG_TEXT + "\n".join(drawn) + "\n"
    assert sorted(os.listdir(tmp_path / "look")) == ["distributions.png", "piano-roll.png"]
    for name in os.listdir(tmp_path / "look"):
        assert pixels_of(picture(tmp_path / "look" / name), NOTES_COLOUR) > 1000
    assert notes_of(read_csv(tmp_path / "tables" / "song.csv")) == read_midi(SONG, "song.mid").notes
    assert list(read_csv(tmp_path / "tables" / "song.csv")[0]) == [
        *("pitch", "name", "onset", "offset", "step", "duration", "velocity")
    ]


def test_only_the_first_notes_are_listed_and_drawn(tmp_path):
    path = write_files(tmp_path, {"long.mid": melody([*range(40, 90), *range(40, 90)])}) / "long.mid"
    text = shown(path, "--notes=5", f"--output={tmp_path / 'some'}", "--roll_notes=3")
    assert "first 5 of 100 notes, times" in text
    assert text.count("\n     5     44") == 1
    assert "\n     6 " not in text
    shown(path, "--notes=0", "--quiet", f"--output={tmp_path / 'all'}")
    heights = [matplotlib.image.imread(tmp_path / name / "piano-roll.png").shape[0] for name in ("some", "all")]
    assert heights[0] < heights[1]  # The first three notes span fewer pitches.


def test_no_line_is_wider_than_the_terminal(tmp_path):
    long = "MIDI-Unprocessed_" + "_".join(map(str, range(30)))
    write_files(tmp_path, {f"{long}.mid": SONG, f"sub/{long}.mid": SONG, f"{long}-broken.mid": b"Dear diary"})
    for arguments in ([tmp_path], [tmp_path / f"{long}.mid"]):
        for columns in (70, 80, 132):
            lines = shown(*arguments, COLUMNS=str(columns)).splitlines()
            assert len(lines) > 10
            assert max(map(len, lines)) <= columns
    assert f"{long}-broken.mid: is not a standard MIDI file: it starts with b'Dear', expected b'MThd'" in shown(
        tmp_path
    )


def test_many_files_get_a_line_each_and_are_summed_up(tmp_path):
    files = {
        "a.mid": melody([60, 62, 64, 65]),
        "deep/b.MIDI": SONG,
        "c\x1b[31m.mid": SONG[:-9],
        "empty.mid": b"",
        "silent.mid": midi_bytes([program(0, 12)]),
        "notes.txt": b"not listed",
    }
    write_files(tmp_path / "midi", files)
    outputs = [f"--csv={tmp_path / 'all.csv'}", f"--output={tmp_path / 'look'}"]
    assert shown(tmp_path / "midi", "nowhere.mid", *outputs).startswith(f"""\
{tmp_path / "midi"}

  notes  length  notes/s  pitches  pedal  file
      4    0:01        –    C4–F4      –  a.mid
      3    0:04      0.8    C4–G4    25%  deep/b.MIDI
      0    0:00        –        –      –  silent.mid

rejected: 3 files
  unreadable  nowhere.mid: no such file, expected a MIDI file, a directory, a glob in quotes or a dataset
  truncated   c?[31m.mid: ends at byte {len(SONG) - 9}, within a chunk that should reach byte {len(SONG)}
  not_midi    empty.mid: is not a standard MIDI file: it is empty, expected b'MThd'

  together     3 files, 7 notes, 0:05 of music
  instruments  Acoustic Grand Piano (2 files), Violin (1 file), drums (1 file)
""")
    assert os.listdir(tmp_path / "look") == ["distributions.png"]
    rows = read_csv(tmp_path / "all.csv")
    for name in ("a.mid", "deep/b.MIDI"):
        path = tmp_path / "midi" / name
        assert notes_of([row for row in rows if row["path"] == str(path)]) == read_midi(files[name], name).notes
    assert len(rows) == 7


def test_paths_may_be_several_and_globs_and_overlap(tmp_path):
    write_files(tmp_path, {f"{name}/{number}.mid": melody([60, 62]) for name in "ab" for number in range(3)})
    text = shown(tmp_path / "a" / "*.mid", tmp_path / "a" / "0.mid", tmp_path / "**" / "1.mid")
    assert "together     4 files, 8 notes" in text
    assert [line.split()[-1] for line in text.splitlines()[3:7]] == ["a/0.mid", "a/1.mid", "a/2.mid", "b/1.mid"]


def test_unreadable_files_are_one_line_and_leave_no_csv(tmp_path):
    write_files(tmp_path, {"empty.mid": b"", "cut.mid": SONG[:50], "x/readme.txt": b"", "a.zip": b"PK"})
    assert "empty.mid: is not a standard MIDI file: it is empty" in rejected(tmp_path / "empty.mid")
    assert "nowhere.mid: no such file" in rejected(tmp_path / "nowhere.mid")
    assert "x: is a directory without dataset.json and without names that end in .mid" in rejected(tmp_path / "x")
    assert "a.zip: is an archive: unpack it" in rejected(tmp_path / "a.zip")
    assert "no path is given" in rejected()
    table = tmp_path / "all.csv"
    assert rejected(tmp_path, f"--csv={table}") == "sostenuto.inspect: none of the 2 files can be read"
    assert not table.exists()


def test_missing_pictures_are_explained(tmp_path):
    drums = midi_bytes([on(0, 36, channel=9), off(9, 36, channel=9)])
    write_files(tmp_path, {"silent.mid": drums, "one.mid": melody([60])})
    text = shown(tmp_path / "silent.mid", f"--output={tmp_path / 'silent'}")
    assert "\n  notes        none\n  instruments  drums (1 note)\n" in text
    assert text.endswith("no notes, so no piano roll\nno two notes in a row, so no distributions\n")
    shown(tmp_path / "one.mid", f"--output={tmp_path / 'one'}")
    assert os.listdir(tmp_path / "one") == ["piano-roll.png"]


def test_help_comes_at_once_and_loads_nothing_heavy():
    process = inspect("--help", PYTHONPROFILEIMPORTTIME="1")
    assert process.returncode == 0
    assert process.stdout.startswith("usage: python -m sostenuto.inspect PATH ... [flags]")
    imported = {line.rpartition("|")[2].strip() for line in process.stderr.splitlines()}
    assert "absl.flags" in imported
    assert not imported & {"numpy", "symusic", "matplotlib", "pretty_midi", "google.cloud.storage"}


METADATA = """canonical_composer,canonical_title,split,year,midi_filename
Clara Schumann,Romanze,train,2004,a.mid
Clara Schumann,Romanze,train,2006,b.mid
Fanny Hensel,September,validation,2004,c.mid
Clara Schumann,Scherzo,test,2004,d.mid
"=HYPERLINK(1)",Broken,train,2004,cut.mid
,Unread,train,2004,diary.mid
"""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A dataset of four performances, with two files rejected, one not listed, and drums."""
    here = tmp_path_factory.mktemp("dataset")
    files = {
        **{f"{name}.mid": melody(range(40 + index, 60 + 3 * index)) for index, name in enumerate("abc")},
        "d.mid": SONG,
        "cut.mid": SONG[:60],
        "diary.mid": b"Dear diary",
        "unlisted.mid": SONG,
        "metadata.csv": METADATA.encode(),
    }
    config = Config(str(write_files(here / "midi", files)), str(here / "data"), max_rejected_fraction=0.5)
    preprocess(config, quiet=True)
    return here / "data"


def test_a_dataset_is_shown_as_it_is(dataset, tmp_path):
    text = shown(dataset, f"--output={tmp_path / 'look'}", f"--csv={tmp_path / 'all.csv'}", COLUMNS="80")
    manifest = Manifest.load(dataset)
    _, facts, splits, composers, quantiles, *reasons = text.split("\n\n")
    facts = " ".join(facts.split())
    assert f"fingerprint {manifest.sha256[:16]} source 6 MIDI files; splits and composers from metadata.csv" in facts
    assert "rejected 2 files left out 1 drum note, 1 unlisted file" in facts
    assert "beware the training split has 42 notes, too few" in facts
    sizes = {split: os.path.getsize(manifest.shard_paths(split)[0]) for split in ("train", "validation", "test")}
    hours = {split: manifest.splits[split].seconds / 3600 for split in sizes}
    assert [line.split() for line in splits.splitlines()[1:]] == [
        [split, performances, pieces, notes, f"{hours[split]:.2f}", "1", *file_size(sizes[split]).split()]
        for split, performances, pieces, notes in (
            ("train", "2", "1", "42"),
            ("validation", "1", "1", "24"),
            ("test", "1", "1", "3"),
        )
    ]
    assert [line.split()[:-1] for line in composers.splitlines()[1:]] == [
        ["Clara", "Schumann", "3", "2", "0", "1", "45"],
        ["Fanny", "Hensel", "1", "0", "1", "0", "24"],
    ]
    together = sum((manifest.histograms(split) for split in sizes), Histograms.zeros())
    assert f"{together.quantile('duration', 0.95):.2f} s" in quantiles
    assert reasons[0].splitlines()[0] == "rejected as not_midi: 1 file"
    assert "diary.mid: is not a standard MIDI file: it starts with b'Dear'" in reasons[0]
    assert reasons[1].splitlines()[0] == "rejected as truncated: 1 file"
    image = picture(tmp_path / "look" / "distributions.png")
    for colour in (NOTES_COLOUR, ORANGE, GREEN):  # train, validation, test
        assert pixels_of(image, colour) > 100
    rows = read_csv(tmp_path / "all.csv")
    for split in sizes:
        for performance in manifest.read_performances(split):
            of_it = [row for row in rows if (row["path"], row["split"]) == (performance.path, split)]
            assert notes_of(of_it) == performance.notes
    assert len(rows) == 42 + 24 + 3


def test_an_incomplete_dataset_is_rejected_in_one_line(dataset, tmp_path):
    copy = write_files(tmp_path / "data", {path.name: path.read_bytes() for path in dataset.iterdir()})
    table = tmp_path / "all.csv"
    (shard,) = copy.glob("test-*")
    shard.write_bytes(shard.read_bytes()[:-1])
    assert "bytes, expected" in rejected(copy, f"--csv={table}")
    assert not table.exists()
    document = json.loads((copy / "dataset.json").read_text())
    shard.write_bytes((dataset / shard.name).read_bytes())
    (copy / "dataset.json").write_text(json.dumps({**document, "source": "elsewhere"}))
    assert 'dataset.json: source: got "elsewhere", expected an object' in rejected(copy)
    (copy / "dataset.json").write_text(json.dumps(document))
    (copy / "rejected.jsonl").write_text("{}\n")
    assert "rejected.jsonl, line 1: path is missing" in rejected(copy)
    (copy / "dataset.json").unlink()
    assert "is a directory without dataset.json" in rejected(copy)
    assert "got 2 paths, expected this one alone" in rejected(dataset, tmp_path)


def test_buckets_are_read_and_written_like_local_files(gcs, dataset, tmp_path):
    files = {"a.mid": melody([60, 62]), "b/song.mid": SONG, "b/cut.mid": SONG[:50]}
    for name, data in files.items():
        gcs.put(f"gs://bucket/midi/{name}", data)
    write_files(tmp_path / "midi", files)
    here, there = shown(tmp_path / "midi"), shown("gs://bucket/midi", "--csv=gs://bucket/look/all.csv")
    assert there == here.replace(f"{tmp_path}/midi", "gs://bucket/midi")
    assert gcs.get("gs://bucket/look/all.csv").decode().count("gs://bucket/midi/b/song.mid,") == 3
    text = shown("gs://bucket/midi/*/s*.mid", "--output=gs://bucket/look")
    assert text.removeprefix("gs://bucket/midi/b/").startswith(SONG_TEXT)
    assert gcs.get("gs://bucket/look/piano-roll.png").startswith(b"\x89PNG")
    assert "gs://bucket/midi/c.mid: no such file" in rejected("gs://bucket/midi/c.mid")
    for path in dataset.iterdir():
        gcs.put(f"gs://bucket/data/{path.name}", path.read_bytes())
    assert shown("gs://bucket/data") == shown(dataset).replace(str(dataset), "gs://bucket/data")


def test_a_table_of_notes_is_exact_at_any_length():
    notes = random_notes(3)
    slow = Notes(notes.pitch, np.where(np.arange(len(notes)), 2**31 - 1, 0), notes.duration_us, notes.velocity)
    file = io.BytesIO()
    table = NoteTable(file, described_by=("path",))
    table.add(notes, "a, b.mid")
    table.add(slow, 'the "slow" one\udcff.mid')
    rows = list(csv.DictReader(io.StringIO(file.getvalue().decode())))
    assert notes_of([row for row in rows if row["path"] == "a, b.mid"]) == notes
    assert notes_of([row for row in rows if row["path"].startswith('the "slow" one')]) == slow
