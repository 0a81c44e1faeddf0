"""Plays with a trained model: `sostenuto generate --workdir=DIR --output=DIR`."""

import logging
import os
from typing import NamedTuple

import numpy as np
from absl import flags

from sostenuto import cli, storage
from sostenuto.errors import UserError
from sostenuto.music.histograms import Histograms
from sostenuto.music.midi import Sustain, read_midi, read_pedal, write_midi
from sostenuto.music.notes import Notes
from sostenuto.music.pedal import NO_PEDAL
from sostenuto.progress import track
from trainer import startup
from trainer.by_field import numbers_by_field
from trainer.generation.samples import DISTRIBUTIONS_NAME, DOCUMENT_NAME, names, require_free, rewritten
from trainer.workdir.formats import RunInfo
from trainer.workdir.json_record import write_json
from trainer.workdir.layout import absolute, dataset, load_run
from trainer.workdir.outputs import check_output_directory, check_writable

logger = logging.getLogger(__name__)

# Beyond them a call may need more memory than a machine has.
_MOST_NOTES = 100_000
_MOST_SAMPLES = 10_000
_MOST_IN_ALL = 10_000_000

USAGE = """--workdir=DIR --output=DIR [flags]

Generates music with a trained model: MIDI files, piano rolls and, with --audio, sound.
"""
EXAMPLES = (
    "--workdir=run --output=music",
    "--workdir=run --output=music --primer=my.mid --primer_seconds=20 --num_samples=4 --audio",
    "--workdir=run --output=music --temperature=0.9,pitch=1 --top_p=0.95",
)

cli.start_group("input and output")
_WORKDIR = flags.DEFINE(cli.Path("DIR"), "workdir", None, "Workdir of the trained model.")
_OUTPUT = flags.DEFINE(
    cli.Path("DIR"),
    "output",
    None,
    "Directory for the samples. It replaces those of an earlier call, and no other file.",
)
_PRIMER = flags.DEFINE(cli.Path("FILE"), "primer", None, "MIDI file to continue. (default: start from silence)")
_PRIMER_SECONDS = flags.DEFINE_float(
    "primer_seconds", None, "Seconds of the primer to use, from its first note. (default: all of it)"
)
_AUDIO = flags.DEFINE_bool("audio", False, "Also write a .wav of each sample.")
cli.start_group("sampling")
_NUM_NOTES = flags.DEFINE_integer(
    "num_notes",
    512,
    f"Notes to generate for each sample, at most {_MOST_NOTES:,}.",
    lower_bound=1,
    upper_bound=_MOST_NOTES,
)
_NUM_SAMPLES = flags.DEFINE_integer(
    "num_samples",
    1,
    f"Samples to generate, all at once: at most {_MOST_SAMPLES:,}, and {_MOST_IN_ALL:,} notes in all.",
    lower_bound=1,
    upper_bound=_MOST_SAMPLES,
)
_TEMPERATURE = flags.DEFINE(
    cli.Text("NUMBER[,FIELD=NUMBER...]"),
    "temperature",
    "1",
    "Temperature of sampling, above 0: below 1 likely values are drawn more often. For one field: 0.9,pitch=1.",
)
_TOP_P = flags.DEFINE(
    cli.Text("NUMBER[,FIELD=NUMBER...]"),
    "top_p",
    "1",
    "Draw from the most likely values whose probabilities add up to this; 1 draws from all. For one field: pitch=0.95.",
)
_SEED = flags.DEFINE_integer(
    "seed", 0, "Seed of sampling: the same seed plays the same music.", lower_bound=0, upper_bound=2**63 - 1
)
_PEDAL = flags.DEFINE_bool(
    "pedal",
    None,
    "Add a sustain pedal (controller 64) by a rule. (default: true for a dataset with --sustain=ignore)",
)

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
    workdir, output = cli.require_flag(_WORKDIR), cli.require_flag(_OUTPUT)
    temperature = numbers_by_field(_TEMPERATURE.value, flag="temperature")
    top_p = numbers_by_field(_TOP_P.value, flag="top_p", highest=1)
    num_notes, num_samples = _NUM_NOTES.value, _NUM_SAMPLES.value
    if num_notes * num_samples > _MOST_IN_ALL:
        raise UserError(
            f"--num_notes={num_notes} --num_samples={num_samples}: got {num_notes * num_samples:,} notes in all, "
            f"expected at most {_MOST_IN_ALL:,}. Ask for fewer samples in a call"
        )
    run = load_run(workdir)
    sustain = run.sustain or "ignore"
    if _PEDAL.value and sustain == "extend":
        raise UserError(f"--pedal: the durations that {workdir} was trained on hold the pedal already (sustain=extend)")
    plays_pedal = sustain == "ignore" if _PEDAL.value is None else _PEDAL.value
    primer = _primer(sustain)
    planned = names(num_samples, "mid", "png", *(["wav"] if _AUDIO.value else []))
    if num_notes > 1:
        planned.append(DISTRIBUTIONS_NAME)
    check_output_directory(output)
    require_free(output, planned)
    check_writable(output)
    startup.import_tensorflow()
    from sostenuto.music.pedal import continued_pedal
    from trainer.generation.sampler import NoteSampler
    from trainer.workdir.load_model import load_model

    trained = load_model(workdir)
    primer_notes = len(primer.notes)
    samples = NoteSampler(trained.model).sample(
        primer.notes,
        num_notes=num_notes,
        num_samples=num_samples,
        temperature=temperature,
        top_p=top_p,
        seed=_SEED.value,
        quiet=False,
    )
    logger.info(f"writing {len(samples.notes):,} samples, each with its piano roll{' and sound' * _AUDIO.value}")
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
    cli.print_result(
        f"done: {num_samples} x {num_notes} notes at {samples.notes_per_second:,.0f} notes/s"
        + (f", sound by {entries[0]['synthesizer']}" if _AUDIO.value else "")
        + f"; wrote {len(planned) + 1} files to {output}, listed in {storage.join(output, DOCUMENT_NAME)}"
    )
    return 0


def _write_sample(output: str, index: int, notes: Notes, primer_notes: int, pedal: np.ndarray) -> dict[str, object]:
    """Writes a sample's files; returns its entry in samples.json."""
    from sostenuto.music import audio, plots

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
        entry["synthesizer"] = audio.render_wav(notes, f"{stem}.wav", pedal)
    return entry


def _draw_distributions(run: RunInfo, output: str, samples: list[Notes], primer_notes: int) -> None:
    """Draws the generated notes' distributions over those of the corpus that the model was trained on."""
    from sostenuto.music import plots

    histograms = {
        "generated": sum((Histograms.from_notes(notes[primer_notes:]) for notes in samples), Histograms.zeros())
    }
    if (manifest := dataset(run)) is not None:
        histograms = {"corpus": manifest.histograms("train"), **histograms}
    plots.distributions(histograms, os.path.join(output, DISTRIBUTIONS_NAME))


if __name__ == "__main__":
    cli.run(main, usage=USAGE, required=(_WORKDIR, _OUTPUT), examples=EXAMPLES)
