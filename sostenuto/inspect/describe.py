"""Descriptions of MIDI files, as lines of text."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from sostenuto.errors import MidiDecodeError, UserError
from sostenuto.music.histograms import Histograms
from sostenuto.music.midi import Instrument, MidiContents
from sostenuto.music.notes import Notes, note_name
from sostenuto.text import cells, counted, indented, labelled, printable, shorten, table

_MAX_INSTRUMENTS = 12  # General MIDI has 128
_MAX_TEMPOS = 4  # that are listed
_QUANTILES = {"5%": 0.05, "25%": 0.25, "median": 0.5, "75%": 0.75, "95%": 0.95}


class Summary(NamedTuple):
    """A MIDI file in numbers, and the names of its instruments."""

    path: str
    notes: int
    seconds: float
    pitches: str  # the lowest and the highest
    pedal: str  # the fraction of the time with the sustain pedal down
    instruments: list[str]


def summarize(path: str, contents: MidiContents) -> Summary:
    """Returns a MIDI file in numbers."""
    notes = contents.decoded.notes
    pitches = _pitch_range(notes) if len(notes) else "–"
    pedal = f"{_fraction_down(contents.pedal, notes):.0%}" if contents.pedal_changes else "–"
    return Summary(path, len(notes), notes.seconds, pitches, pedal, list(map(_instrument_name, contents.instruments)))


def describe_file(name: str, contents: MidiContents, *, rows: int, width: int | None) -> list[str]:
    """Returns lines about a MIDI file and its first notes, at most `rows`; width in cells, None for no limit."""
    notes = contents.decoded.notes
    lines = [format_title(name, width), "", *format_facts(_list_facts(contents), width)]
    if len(notes):
        lines += ["", *format_quantiles(Histograms.from_notes(notes), width)]
        lines += ["", *_list_notes(notes, rows, width)] if rows else []
    return lines


def describe_files(
    base: str,
    summaries: Sequence[Summary],
    failures: Sequence[tuple[str, UserError]],
    histograms: Histograms,
    *,
    width: int | None,
) -> list[str]:
    """Returns a line for each MIDI file, then the rejected ones and the totals; paths are shown relative to `base`."""
    prefix = base.rstrip("/") + "/" if base else ""
    lines = [format_title(base or "MIDI files", width), ""]
    if summaries:
        header = ("notes", "length", "notes/s", "pitches", "pedal", "file")
        rows = []
        for file in summaries:
            speed = f"{file.notes / file.seconds:.1f}" if file.seconds >= 1 else "–"
            path = file.path.removeprefix(prefix)
            rows.append((f"{file.notes:,}", _clock(file.seconds), speed, file.pitches, file.pedal, path))
        lines += [*format_table(header, rows, ">>>>><", width), ""]
    problems = []
    for path, error in failures:
        reason, detail = "unreadable", str(error).removeprefix(f"{path}: ")
        if isinstance(error, MidiDecodeError):
            reason, detail = error.reason, error.detail
        problems.append((reason, f"{path.removeprefix(prefix)}: {detail}"))
    if problems:
        lines += [f"rejected: {counted(len(problems), 'file')}", *format_facts(problems, width), ""]
    notes, seconds = sum(file.notes for file in summaries), sum(file.seconds for file in summaries)
    instruments = Counter(name for file in summaries for name in file.instruments)
    facts = [
        ("together", f"{counted(len(summaries), 'file')}, {counted(notes, 'note')}, {_clock(seconds)} of music"),
        ("instruments", _join(f"{name} ({counted(files, 'file')})" for name, files in instruments.most_common())),
    ]
    lines += format_facts(facts, width)
    if notes:
        lines += ["", *format_quantiles(histograms, width)]
    return lines


def format_title(text: str, width: int | None) -> str:
    """Returns a path as a heading: its last part, shortened, where the terminal is too narrow."""
    text = printable(text)
    return text if width is None or cells(text) <= width else shorten(text.rpartition("/")[2], width)


def format_facts(facts: Iterable[tuple[str, str]], width: int | None) -> list[str]:
    """Returns indented lines of labels and texts."""
    return indented(labelled(list(facts), width=width and width - 2))


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]], align: str, width: int | None) -> list[str]:
    """Returns the indented lines of a table."""
    return indented(table(header, rows, align=align, width=width and width - 2))


def format_quantiles(histograms: Histograms, width: int | None) -> list[str]:
    """Returns a table with quantiles of the notes' fields."""
    formats: dict[str, Callable[[float], str]] = {
        "pitch": lambda value: f"{value:.0f} {note_name(int(value))}",
        "step": "{:.2f} s".format,
        "duration": "{:.2f} s".format,
        "velocity": "{:.0f}".format,
    }
    rows = [
        (field, *(formatted(histograms.quantile(field, fraction)) for fraction in _QUANTILES.values()))
        for field, formatted in formats.items()
        if getattr(histograms, field).any()
    ]
    return format_table(("quantile", *_QUANTILES), rows, "<>>>>>", width)


def format_nonzero(counts: Iterable[tuple[int, str]]) -> list[tuple[str, str]]:
    """Returns the fact "left out" with the counts above 0; no fact if there is none."""
    texts = [counted(count, what) for count, what in counts if count]
    return [("left out", ", ".join(texts))] if texts else []


def _list_facts(contents: MidiContents) -> Iterator[tuple[str, str]]:
    decoded, notes = contents.decoded, contents.decoded.notes
    if len(notes):
        onset = contents.first_onset_us / 1e6
        rest = f"; the first note sounds {onset:.2f} s into the file" if onset else ""
        yield "length", f"{_clock(notes.seconds)} ({notes.seconds:,.2f} s){rest}"
        velocities = f"velocity {notes.velocity.min()} to {notes.velocity.max()}"
        yield "notes", f"{len(notes):,}, {len(notes) / notes.seconds:.1f} a second; {_pitch_range(notes)}; {velocities}"
    else:
        yield "notes", "none"
    players = contents.instruments
    yield "instruments", _join(f"{_instrument_name(player)} ({counted(player.notes, 'note')})" for player in players)
    ignored = counted(contents.ignored_tempos, "tempo change") if contents.ignored_tempos else ""
    yield "tempo", _describe_tempo(contents) + (f"; {ignored} of later tracks ignored" if ignored else "")
    if len(notes):
        yield "keys", f"held {_fraction_held(notes):.0%} of the time, at most {_max_held(notes)} at once"
        yield "pedal", _describe_pedal(contents)
    yield from format_nonzero(decoded.left_out)


def _describe_tempo(contents: MidiContents) -> str:
    times, quarters = contents.tempos[:, 0], 6e7 / contents.tempos[:, 1]
    if len(times) == 1:
        return f"{quarters[0]:.4g} quarter notes a minute"
    if len(times) <= _MAX_TEMPOS:
        changes = [f"{tempo:.4g} from {_clock(time / 1e6)}" for time, tempo in zip(times, quarters, strict=True)]
        return f"{', '.join(changes)}, in quarter notes a minute"
    end = max(contents.first_onset_us + contents.decoded.notes.seconds * 1e6, times[-1] + 1)
    mean = np.average(quarters, weights=np.diff(np.append(times, end)))
    return (
        f"{quarters.min():.4g} to {quarters.max():.4g} quarter notes a minute, {mean:.4g} on average; "
        f"{len(times) - 1:,} changes"
    )


def _describe_pedal(contents: MidiContents) -> str:
    if not contents.pedal_changes:
        return "none"
    fraction = _fraction_down(contents.pedal, contents.decoded.notes)
    presses = f"pressed {counted(len(contents.pedal), 'time')}"
    return f"down {fraction:.0%} of the time, {presses}; {counted(contents.pedal_changes, 'change')} of controller 64"


def _fraction_down(pedal: np.ndarray, notes: Notes) -> float:
    """Returns the fraction of the music's time in which the pedal is down."""
    end = notes.seconds * 1e6
    return float(np.diff(np.minimum(pedal, end)).sum() / end) if end else 0.0


def _fraction_held(notes: Notes) -> float:
    """Returns the fraction of the music's time in which at least one key is held."""
    onset, offset = notes.onset_us, np.maximum.accumulate(notes.offset_us)
    silence = np.maximum(onset[1:] - offset[:-1], 0).sum()
    return float(1 - silence / offset[-1])


def _max_held(notes: Notes) -> int:
    """Returns the greatest number of keys held together, without those released at the onset of another."""
    released = np.searchsorted(np.sort(notes.offset_us), notes.onset_us, side="right")
    return int((np.arange(1, len(notes) + 1) - released).max())


def _list_notes(notes: Notes, rows: int, width: int | None) -> list[str]:
    shown = notes[:rows]
    times = [values / 1e6 for values in (shown.onset_us, shown.offset_us, shown.step_us, shown.duration_us)]
    values = zip(shown.pitch.tolist(), *times, shown.velocity.tolist(), strict=True)
    cells_of_rows = [
        (f"{number:,}", str(pitch), note_name(pitch), *(f"{seconds:.3f}" for seconds in played), str(velocity))
        for number, (pitch, *played, velocity) in enumerate(values, start=1)
    ]
    header = ("note", "pitch", "name", "onset", "offset", "step", "duration", "velocity")
    extent = "all notes" if len(shown) == len(notes) else f"first {len(shown):,} of {len(notes):,} notes"
    title = f"{extent}, times in seconds from the first onset"
    return [title, *format_table(header, cells_of_rows, ">><>>>>>", width)]


def _instrument_name(instrument: Instrument) -> str:
    import pretty_midi  # Costs half a second.

    return "drums" if instrument.program is None else pretty_midi.program_to_instrument_name(instrument.program)


def _pitch_range(notes: Notes) -> str:
    return f"{note_name(int(notes.pitch.min()))}–{note_name(int(notes.pitch.max()))}"


def _clock(seconds: float) -> str:
    """Returns a length as 0:07, 6:12 or 1:02:03."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def _join(texts: Iterable[str]) -> str:
    names = list(texts)
    if len(names) > _MAX_INSTRUMENTS:
        names[_MAX_INSTRUMENTS:] = [f"and {len(names) - _MAX_INSTRUMENTS:,} more"]
    return ", ".join(names) or "none"
