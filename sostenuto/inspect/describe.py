"""MIDI files and datasets in words: what `sostenuto inspect` prints, as lines of text."""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from sostenuto import storage
from sostenuto.data.manifest import MANIFEST_NAME, REJECTED_NAME, SPLITS, Manifest
from sostenuto.data.performance import Performance
from sostenuto.errors import MidiDecodeError, UserError
from sostenuto.music.histograms import Histograms
from sostenuto.music.midi import Instrument, MidiContents
from sostenuto.music.notes import Notes, note_name
from sostenuto.text import cells, counted, indented, labelled, printable, shorten, table

_MAX_INSTRUMENTS = 12  # General MIDI has 128
_MAX_TEMPOS = 4  # that are told one by one
_MAX_COMPOSERS = 30
_EXAMPLES = 3  # of rejected files, for each reason
_QUANTILES = {"5%": 0.05, "25%": 0.25, "median": 0.5, "75%": 0.75, "95%": 0.95}


class Rejected(NamedTuple):
    """A file that cannot be read: its path, a word for counting, and what is wrong."""

    path: str
    reason: str
    detail: str

    @classmethod
    def of(cls, path: str, error: UserError) -> "Rejected":
        """Returns what an error says of a file."""
        if isinstance(error, MidiDecodeError):
            return cls(path, error.reason, error.detail)
        return cls(path, "unreadable", str(error).removeprefix(f"{path}: "))


class Summary(NamedTuple):
    """One of many MIDI files, in numbers.

    Attributes:
        path: the file.
        notes: how many.
        seconds: from the first onset to the end of the last sounding note.
        pitches: the lowest and the highest; None without notes.
        pedal: the share of that time in which the sustain pedal is down; None in a file without a pedal.
        instruments: that play.
    """

    path: str
    notes: int
    seconds: float
    pitches: tuple[int, int] | None
    pedal: float | None
    instruments: tuple[str, ...]


def summarize(path: str, contents: MidiContents) -> Summary:
    """Returns a MIDI file in numbers."""
    notes = contents.decoded.notes
    return Summary(
        path=path,
        notes=len(notes),
        seconds=notes.seconds,
        pitches=(int(notes.pitch.min()), int(notes.pitch.max())) if len(notes) else None,
        pedal=_share_down(contents.pedal, notes) if contents.pedal_changes else None,
        instruments=tuple(_instrument_name(instrument) for instrument in contents.instruments),
    )


def midi_file(name: str, contents: MidiContents, *, rows: int, width: int | None) -> list[str]:
    """Returns the description of one MIDI file.

    Args:
        name: what to call it.
        contents: what it holds.
        rows: how many of its first notes are listed.
        width: cells of the terminal; None for as wide as it gets.
    """
    notes = contents.decoded.notes
    lines = [_title(name, width), "", *_facts(_midi_facts(contents), width)]
    if len(notes):
        lines += ["", *_distributions(Histograms.from_notes(notes), width)]
    if len(notes) and rows:
        lines += ["", *_first_notes(notes, rows, width)]
    return lines


def midi_files(
    base: str, summaries: Sequence[Summary], rejected: Sequence[Rejected], histograms: Histograms, *, width: int | None
) -> list[str]:
    """Returns the description of many MIDI files: a line each, those that were rejected, and all together.

    Args:
        base: the directory that holds them all; paths are shown relative to it.
        summaries: of those that could be read.
        rejected: the others.
        histograms: of all notes.
        width: cells of the terminal; None for as wide as it gets.
    """
    lines = [_title(base or "MIDI files", width), ""]
    if summaries:
        rows = [
            (
                f"{one.notes:,}",
                clock(one.seconds),
                f"{one.notes / one.seconds:.1f}" if one.seconds >= 1 else "–",
                _pitch_range(*one.pitches) if one.pitches else "–",
                "–" if one.pedal is None else f"{one.pedal:.0%}",
                relative(one.path, base),
            )
            for one in summaries
        ]
        header = ("notes", "length", "notes/s", "pitches", "pedal", "file")
        lines += [*_table(header, rows, ">>>>><", width), ""]
    if rejected:
        lines += [*_rejections([file._replace(path=relative(file.path, base)) for file in rejected], width), ""]
    notes, seconds = sum(one.notes for one in summaries), sum(one.seconds for one in summaries)
    playing = Counter(name for one in summaries for name in one.instruments)
    facts = [
        ("together", f"{counted(len(summaries), 'file')}, {counted(notes, 'note')}, {clock(seconds)} of music"),
        ("instruments", _listed([f"{name} ({counted(files, 'file')})" for name, files in playing.most_common()])),
    ]
    lines += _facts(facts, width)
    if notes:
        lines += ["", *_distributions(histograms, width)]
    return lines


@dataclasses.dataclass
class Survey:
    """What a dataset's records say and its dataset.json does not.

    Attributes:
        pieces: of each split, by its name.
        performances: of each composer, by split.
        notes: of each composer.
        seconds: of each composer.
    """

    pieces: dict[str, set[str]] = dataclasses.field(default_factory=lambda: {split: set() for split in SPLITS})
    performances: dict[str, Counter[str]] = dataclasses.field(default_factory=dict)
    notes: Counter[str] = dataclasses.field(default_factory=Counter)
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)

    def add(self, performance: Performance) -> None:
        """Counts a performance."""
        composer = performance.composer
        self.pieces[performance.split].add(performance.piece)
        self.performances.setdefault(composer, Counter())[performance.split] += 1
        self.notes[composer] += len(performance.notes)
        self.seconds[composer] = self.seconds.get(composer, 0.0) + performance.notes.seconds


def dataset(manifest: Manifest, survey: Survey, *, width: int | None) -> list[str]:
    """Returns the description of a dataset: its splits, composers and distributions, and what was rejected.

    Args:
        manifest: of the dataset.
        survey: of all its performances.
        width: cells of the terminal; None for as wide as it gets.

    Raises:
        UserError: dataset.json or rejected.jsonl is not as beam_preprocess writes it.
    """
    rows = [_split_row(manifest, survey, split) for split in SPLITS]
    header = ("split", "performances", "pieces", "notes", "hours", "shards", "MB per shard")
    try:
        facts = list(_dataset_facts(manifest))
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{manifest.directory}: {MANIFEST_NAME} lacks something, or has it in another form ({error}): "
            "run sostenuto preprocess anew"
        ) from error
    lines = [_title(manifest.directory, width), "", *_facts(facts, width), ""]
    lines += [*_table(header, rows, "<>>>>>>", width), "", *_composers(survey, width), ""]
    lines += _distributions(sum((manifest.histograms(split) for split in SPLITS), Histograms.zeros()), width)
    if manifest.rejected:
        lines += ["", *_rejected(manifest, width)]
    return lines


def clock(seconds: float) -> str:
    """Returns a length as a clock shows it: 0:07, 6:12, 1:02:03."""
    whole = round(seconds)
    minutes, hours = whole // 60, whole // 3600
    return f"{hours}:{minutes % 60:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def relative(path: str, base: str) -> str:
    """Returns a path as it is named below a directory, or the path where it is not below it."""
    prefix = base.rstrip("/") + "/"
    return path.removeprefix(prefix) if base else path


def _midi_facts(contents: MidiContents) -> Iterator[tuple[str, str]]:
    decoded, notes = contents.decoded, contents.decoded.notes
    if len(notes):
        late = contents.first_onset_us / 1e6
        waits = f"; the first note sounds {late:.2f} s into the file" if late else ""
        yield "length", f"{clock(notes.seconds)} ({notes.seconds:,.2f} s){waits}"
        velocities = f"velocity {notes.velocity.min()} to {notes.velocity.max()}"
        pitches = f"{_pitch_range(int(notes.pitch.min()), int(notes.pitch.max()))}"
        yield "notes", f"{len(notes):,}, {len(notes) / notes.seconds:.1f} a second; {pitches}; {velocities}"
    else:
        yield "notes", "none"
    instruments = [f"{_instrument_name(one)} ({counted(one.notes, 'note')})" for one in contents.instruments]
    yield "instruments", _listed(instruments)
    yield "tempo", _tempo(contents)
    if len(notes):
        yield "keys", f"held {_share_held(notes):.0%} of the time, at most {_most_at_once(notes)} at once"
        yield "pedal", _pedal(contents)
    left_out = [
        counted(count, what)
        for count, what in ((decoded.zero_length, "note of zero length"), (decoded.drums, "drum note"))
        if count
    ]
    if left_out:
        yield "left out", ", ".join(left_out)


def _tempo(contents: MidiContents) -> str:
    times, quarters = contents.tempos[:, 0], 6e7 / contents.tempos[:, 1]
    if len(times) == 1:
        return f"{quarters[0]:.4g} quarter notes a minute"
    if len(times) <= _MAX_TEMPOS:
        changes = [f"{tempo:.4g} from {clock(time / 1e6)}" for time, tempo in zip(times, quarters, strict=True)]
        return f"{', '.join(changes)}, in quarter notes a minute"
    end = max(contents.first_onset_us + contents.decoded.notes.seconds * 1e6, times[-1] + 1)
    mean = np.average(quarters, weights=np.diff(np.append(times, end)))
    return (
        f"{quarters.min():.4g} to {quarters.max():.4g} quarter notes a minute, {mean:.4g} on average; "
        f"{len(times) - 1:,} changes"
    )


def _pedal(contents: MidiContents) -> str:
    if not contents.pedal_changes:
        return "none"
    share = _share_down(contents.pedal, contents.decoded.notes)
    presses = f"pressed {counted(len(contents.pedal), 'time')}"
    return f"down {share:.0%} of the time, {presses}; {counted(contents.pedal_changes, 'change')} of controller 64"


def _share_down(pedal: np.ndarray, notes: Notes) -> float:
    """The share of the music's time in which the pedal is down."""
    end = notes.seconds * 1e6
    return float(np.diff(np.minimum(pedal, end)).sum() / end) if end else 0.0


def _share_held(notes: Notes) -> float:
    """The share of the music's time in which at least one key is held."""
    onset, offset = notes.onset_us, np.maximum.accumulate(notes.offset_us)
    silence = np.maximum(onset[1:] - offset[:-1], 0).sum()
    return float(1 - silence / offset[-1])


def _most_at_once(notes: Notes) -> int:
    """The greatest number of keys held together; one that is released just as another is struck does not count."""
    released = np.searchsorted(np.sort(notes.offset_us), notes.onset_us, side="right")
    return int((np.arange(1, len(notes) + 1) - released).max())


def _first_notes(notes: Notes, rows: int, width: int | None) -> list[str]:
    shown = notes[:rows]
    times = [values / 1e6 for values in (shown.onset_us, shown.offset_us, shown.step_us, shown.duration_us)]
    values = zip(shown.pitch.tolist(), *times, shown.velocity.tolist(), strict=True)
    listed = [
        (f"{number:,}", str(pitch), note_name(pitch), *(f"{time:.3f}" for time in played), str(velocity))
        for number, (pitch, *played, velocity) in enumerate(values, start=1)
    ]
    header = ("note", "pitch", "name", "onset", "offset", "step", "duration", "velocity")
    which = "all notes" if len(shown) == len(notes) else f"first {len(shown):,} of {len(notes):,} notes"
    return [f"{which}, times in seconds from the first onset", *_table(header, listed, ">><>>>>>", width)]


def _distributions(histograms: Histograms, width: int | None) -> list[str]:
    """The notes' values below which a share of them lies: what the pictures show, in numbers."""
    rows = []
    for field in ("pitch", "step", "duration", "velocity"):
        values = [histograms.quantile(field, share) for share in _QUANTILES.values()]
        if np.isnan(values[0]):
            continue
        match field:
            case "pitch":
                texts = [f"{value:.0f} {note_name(int(value))}" for value in values]
            case "velocity":
                texts = [f"{value:.0f}" for value in values]
            case _:
                texts = [f"{value:.2f} s" for value in values]
        rows.append((field, *texts))
    return _table(("quantile", *_QUANTILES), rows, "<>>>>>", width)


def _dataset_facts(manifest: Manifest) -> Iterator[tuple[str, str]]:
    source, statistics = manifest.source, manifest.statistics
    yield "sha256", manifest.sha256[:16]
    splits = f"splits and composers from {source['metadata']}" if source["metadata"] else "splits by fractions"
    yield "source", f"{counted(source['files'], 'MIDI file')}; {splits}"
    yield "options", " ".join(f"{name}={_option(value)}" for name, value in manifest.options.items())
    rejected = sum(manifest.rejected.values())
    yield "rejected", counted(rejected, "file") if rejected else "none"
    left_out = [
        counted(sum(getattr(statistics[split], key) for split in SPLITS), what)
        for key, what in (("zero_length_dropped", "note of zero length"), ("drums_dropped", "drum note"))
    ]
    left_out.append(counted(source["unlisted"], "unlisted file"))
    left_out = [text for text in left_out if not text.startswith("0 ")]
    if left_out:
        yield "left out", ", ".join(left_out)
    if source["straddling_pieces"]:
        yield "beware", f"{counted(source['straddling_pieces'], 'piece')} in more than one split"


def _option(value: object) -> str:
    return ",".join(f"{part:g}" for part in value) if isinstance(value, list) else str(value)


def _split_row(manifest: Manifest, survey: Survey, split: str) -> tuple[str, ...]:
    entry = manifest.splits[split]
    sizes = [shard.bytes / 1e6 for shard in entry.shards]
    size = "–"
    if sizes:
        least, most = f"{min(sizes):.2f}", f"{max(sizes):.2f}"
        size = least if least == most else f"{least} to {most}"
    return (
        split,
        f"{entry.performances:,}",
        f"{len(survey.pieces[split]):,}",
        f"{entry.notes:,}",
        f"{entry.seconds / 3600:.2f}",
        f"{len(sizes):,}",
        size,
    )


def _composers(survey: Survey, width: int | None) -> list[str]:
    if set(survey.performances) == {""}:
        return indented(["composers unknown: no metadata named them"])
    ordered = [composer for composer, _ in survey.notes.most_common()]
    groups = [[composer] for composer in ordered[:_MAX_COMPOSERS]]
    if others := ordered[_MAX_COMPOSERS:]:
        groups.append(others)
    rows = []
    for group in groups:
        name = group[0] or "(unknown)" if len(group) == 1 else f"{len(group):,} others"
        splits = sum((survey.performances[composer] for composer in group), Counter())
        notes = sum(survey.notes[composer] for composer in group)
        hours = sum(survey.seconds[composer] for composer in group) / 3600
        rows.append(
            (name, f"{splits.total():,}", *(f"{splits[split]:,}" for split in SPLITS), f"{notes:,}", f"{hours:.2f}")
        )
    return _table(("composer", "performances", *SPLITS, "notes", "hours"), rows, "<>>>>>>", width)


def _rejected(manifest: Manifest, width: int | None) -> list[str]:
    """The first files of each reason, those of the commonest first."""
    examples: dict[str, list[Rejected]] = {}
    for rejected in _read_rejected(storage.join(manifest.directory, REJECTED_NAME)):
        examples.setdefault(rejected.reason, []).append(rejected)
    counts = manifest.rejected
    lines = []
    for reason in sorted(counts, key=lambda reason: (-counts[reason], reason)):
        shown = examples.get(reason, [])[:_EXAMPLES]
        such_as = ", such as" if len(shown) < counts[reason] else ""
        lines += ["", f"rejected as {reason}: {counted(counts[reason], 'file')}{such_as}"]
        lines += _facts([("", f"{file.path}: {file.detail}") for file in shown], width)
    return lines[1:]


def _rejections(rejected: Sequence[Rejected], width: int | None) -> list[str]:
    """A line each, broken to fit: what is wrong must be read whole."""
    facts = [(file.reason, f"{file.path}: {file.detail}") for file in rejected]
    return [f"rejected: {counted(len(rejected), 'file')}", *_facts(facts, width)]


def _read_rejected(path: str) -> Iterable[Rejected]:
    for number, line in enumerate(storage.read_bytes(path).splitlines(), start=1):
        try:
            document = json.loads(line)
            yield Rejected(document["path"], document["reason"], document["detail"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: line {number} says of no file why it was rejected: preprocess anew") from error


def _instrument_name(instrument: Instrument) -> str:
    import pretty_midi  # Costs half a second.

    return "drums" if instrument.program is None else pretty_midi.program_to_instrument_name(instrument.program)


def _pitch_range(low: int, high: int) -> str:
    return f"{note_name(low)}–{note_name(high)}"


def _listed(texts: Sequence[str]) -> str:
    if not texts:
        return "none"
    more = [f"and {len(texts) - _MAX_INSTRUMENTS:,} more"] if len(texts) > _MAX_INSTRUMENTS else []
    return ", ".join([*texts[:_MAX_INSTRUMENTS], *more])


def _title(text: str, width: int | None) -> str:
    text = printable(text)
    if width is None or cells(text) <= width:
        return text
    return shorten(text.rpartition("/")[2], width)


def _facts(facts: Iterable[tuple[str, str]], width: int | None) -> list[str]:
    return indented(labelled(list(facts), width=width and width - 2))


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], align: str, width: int | None) -> list[str]:
    return indented(table(header, rows, align=align, width=width and width - 2))
