"""Plays with a trained model: `python -m trainer.generate --workdir=DIR --output=DIR`."""

import os
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from notes import cli, storage
from notes.errors import UserError
from notes.midi import NO_PEDAL, Sustain, read_midi, read_pedal, write_midi
from notes.progress import say, track
from notes.representation import Notes
from notes.statistics import Histograms
from trainer import startup
from trainer.by_field import numbers_by_field
from trainer.outputs import require_own_place, require_writable
from trainer.samples import DISTRIBUTIONS_NAME, DOCUMENT_NAME, names, require_free, rewritten
from trainer.workdir import absolute, dataset, load_run, write_json

# Beyond them a call may need more memory than a machine has.
_MOST_NOTES = 100_000
_MOST_SAMPLES = 10_000
_MOST_IN_ALL = 10_000_000

_WORKDIR = flags.DEFINE_string("workdir", None, "the workdir of the trained model")
_OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "the directory for the samples; files that an earlier call wrote there are replaced, all others stay as they are",
)
_PRIMER = flags.DEFINE_string("primer", None, "a MIDI file to continue; without it, the samples start from silence")
_PRIMER_SECONDS = flags.DEFINE_float("primer_seconds", None, "only so much of the primer, from its first note")
_NUM_NOTES = flags.DEFINE_integer(
    "num_notes",
    512,
    f"notes to generate for each sample, at most {_MOST_NOTES:,}",
    lower_bound=1,
    upper_bound=_MOST_NOTES,
)
_NUM_SAMPLES = flags.DEFINE_integer(
    "num_samples",
    1,
    f"samples to play, all at once; at most {_MOST_SAMPLES:,}, and {_MOST_IN_ALL:,} notes in all",
    lower_bound=1,
    upper_bound=_MOST_SAMPLES,
)
_TEMPERATURE = flags.DEFINE_string(
    "temperature", "1", "below 1 the likely is played more often, above 1 the unlikely: a number, or as in 0.9,pitch=1"
)
_TOP_P = flags.DEFINE_string(
    "top_p", "1", "draws from the likeliest values that are so probable together: a number, or as in pitch=0.95"
)
_SEED = flags.DEFINE_integer(
    "seed", 0, "of what is drawn: the same seed plays the same", lower_bound=0, upper_bound=2**63 - 1
)
_PEDAL = flags.DEFINE_bool(
    "pedal", None, "play a sustain pedal too (controller 64), by a rule; the default where durations are those of keys"
)
_AUDIO = flags.DEFINE_bool("audio", False, "also write a .wav of each sample")

_ROLL_NOTES = 2000  # notes that a piano roll shows at most ...
_ROLL_PRIMER_NOTES = 200  # ... and so many of them before the seam, if the primer has them


class _Primer(NamedTuple):
    """What is continued: its notes, with durations as the model was trained on, and when its pedal is down."""

    notes: Notes
    pedal: np.ndarray


def _primer(sustain: Sustain) -> _Primer:
    """The primer that the flags name, or silence."""
    seconds = _PRIMER_SECONDS.value
    if not _PRIMER.value:
        if seconds is not None:
            raise UserError(f"--primer_seconds={seconds:g}: there is no --primer to cut")
        return _Primer(Notes.empty(), NO_PEDAL)
    if seconds is not None and not seconds > 0:
        raise UserError(f"--primer_seconds={seconds:g}: expected a number above 0")
    data = storage.read_bytes(_PRIMER.value)
    notes = read_midi(data, _PRIMER.value, sustain=sustain).notes
    if not len(notes):
        raise UserError(f"{_PRIMER.value}: holds no notes to continue")
    if seconds is not None:
        notes = notes[: int(np.searchsorted(notes.onset_us, seconds * 1e6))]
    # Durations that the pedal has extended hold it already.
    return _Primer(notes, read_pedal(data, _PRIMER.value) if sustain == "ignore" else NO_PEDAL)


def main() -> int:
    """Plays as the flags say."""
    workdir, output = cli.required(_WORKDIR), cli.required(_OUTPUT)
    temperature = numbers_by_field(_TEMPERATURE.value, flag="temperature")
    top_p = numbers_by_field(_TOP_P.value, flag="top_p", highest=1)
    num_notes, num_samples = _NUM_NOTES.value, _NUM_SAMPLES.value
    if num_notes * num_samples > _MOST_IN_ALL:
        raise UserError(
            f"--num_notes={num_notes} --num_samples={num_samples}: got {num_notes * num_samples:,} notes in all, "
            f"expected at most {_MOST_IN_ALL:,}. Ask for fewer samples in a call"
        )
    run = load_run(workdir)
    sustain = run.get("sustain", "ignore")
    if _PEDAL.value and sustain == "extend":
        raise UserError(f"--pedal: the durations that {workdir} was trained on hold the pedal already (sustain=extend)")
    plays_pedal = sustain == "ignore" if _PEDAL.value is None else _PEDAL.value
    primer = _primer(sustain)
    planned = names(num_samples, "mid", "png", *(["wav"] if _AUDIO.value else []))
    if num_notes > 1:
        planned.append(DISTRIBUTIONS_NAME)
    require_own_place(output)
    require_free(output, planned)
    require_writable(output)
    startup.import_tensorflow()
    from trainer.model import load_model
    from trainer.pedal import continued_pedal
    from trainer.sampling import Player

    trained = load_model(workdir)
    primer_notes = len(primer.notes)
    samples = Player(trained.model).play(
        primer.notes,
        num_notes=num_notes,
        num_samples=num_samples,
        temperature=temperature,
        top_p=top_p,
        seed=_SEED.value,
        quiet=False,
    )
    say(f"writing {len(samples.notes):,} samples, each with its piano roll{' and sound' * _AUDIO.value}")
    with rewritten(output, planned) as directory:
        entries = [
            _write_sample(
                directory,
                index,
                notes,
                primer_notes,
                continued_pedal(primer.pedal, notes, primer_notes, by_rule=plays_pedal),
            )
            for index, notes in enumerate(
                track(samples.notes, total=len(samples.notes), unit="sample", description="writing")
            )
        ]
        if num_notes > 1:
            _draw_distributions(run, directory, samples.notes, primer_notes)
        document = {
            "workdir": absolute(workdir),
            "train_step": trained.train_step,
            "primer": absolute(_PRIMER.value) if _PRIMER.value else None,
            "primer_notes": primer_notes,
            "num_notes": num_notes,
            "num_samples": num_samples,
            "temperature": temperature,
            "top_p": top_p,
            "seed": _SEED.value,
            "sustain": sustain,
            "pedal": plays_pedal,
            "notes_per_second": samples.notes_per_second,
            "files": planned,
            "samples": entries,
        }
        write_json(os.path.join(directory, DOCUMENT_NAME), document)
    cli.show(
        f"done: {num_samples} x {num_notes} notes at {samples.notes_per_second:,.0f} notes/s"
        + (f", sound by {entries[0]['synthesizer']}" if _AUDIO.value else "")
        + f"; wrote {len(planned) + 1} files to {output}, listed in {storage.join(output, DOCUMENT_NAME)}"
    )
    return 0


def _write_sample(output: str, index: int, notes: Notes, primer_notes: int, pedal: np.ndarray) -> dict[str, object]:
    """Writes a sample's files; returns its entry in samples.json."""
    from notes import plots
    from trainer import sound

    stem = os.path.join(output, f"sample-{index:03d}")
    write_midi(notes, f"{stem}.mid", pedal)
    # Of a long primer, only its end: the seam is to be seen.
    first = max(min(len(notes) - _ROLL_NOTES, primer_notes - _ROLL_PRIMER_NOTES), 0)
    plots.piano_roll(
        notes[first:],
        f"{stem}.png",
        title=f"from note {first + 1:,}, at {notes.onset_us[first] / 1e6:,.1f} s" if first else "",
        max_notes=_ROLL_NOTES,
        primer_notes=primer_notes - first,
    )
    entry: dict[str, object] = {"midi": f"sample-{index:03d}.mid", "seconds": notes.seconds}
    if _AUDIO.value:
        entry["synthesizer"] = sound.render_wav(notes, f"{stem}.wav", pedal)
    return entry


def _draw_distributions(run: dict[str, Any], output: str, samples: list[Notes], primer_notes: int) -> None:
    """Draws the generated notes' distributions over those of the corpus that the model was trained on."""
    from notes import plots

    histograms = {
        "generated": sum((Histograms.from_notes(notes[primer_notes:]) for notes in samples), Histograms.zeros())
    }
    if (manifest := dataset(run)) is not None:
        histograms = {"corpus": manifest.histograms("train"), **histograms}
    plots.distributions(histograms, os.path.join(output, DISTRIBUTIONS_NAME))


if __name__ == "__main__":
    cli.run(main, usage="--workdir=DIR --output=DIR [flags]\n" + __doc__)
