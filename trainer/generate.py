"""Plays with a trained model: `python -m trainer.generate --workdir=DIR --output=DIR`."""

import os
import re
from typing import Any

from absl import flags

from notes import cli, storage
from notes.errors import UserError
from notes.midi import Sustain, read_midi, write_midi
from notes.representation import Notes
from notes.statistics import Histograms
from trainer import startup
from trainer.workdir import absolute, load_run, write_json

_WORKDIR = flags.DEFINE_string("workdir", None, "the workdir of the trained model")
_OUTPUT = flags.DEFINE_string("output", None, "where the samples go; those of an earlier call are overwritten")
_PRIMER = flags.DEFINE_string("primer", None, "a MIDI file to continue; without it, the samples start from silence")
_NUM_NOTES = flags.DEFINE_integer("num_notes", 512, "notes to generate for each sample", lower_bound=1)
_NUM_SAMPLES = flags.DEFINE_integer("num_samples", 1, "how many samples to play, all at once", lower_bound=1)
_TEMPERATURE = flags.DEFINE_float("temperature", 1.0, "below 1 the likely is played more often, above 1 the unlikely")
_SEED = flags.DEFINE_integer(
    "seed", 0, "of what is drawn: the same seed plays the same", lower_bound=0, upper_bound=2**63 - 1
)
_AUDIO = flags.DEFINE_bool("audio", False, "also write a .wav of each sample")
_QUIET = flags.DEFINE_bool("quiet", False, "print nothing but errors")

_DOCUMENT_NAME = "samples.json"
_ROLL_NOTES = 2000  # notes that a piano roll shows at most


def _primer(sustain: Sustain) -> Notes:
    """The notes to continue, with durations as the model was trained on."""
    if not _PRIMER.value:
        return Notes.empty()
    primer = read_midi(storage.read_bytes(_PRIMER.value), _PRIMER.value, sustain=sustain).notes
    if not len(primer):
        raise UserError(f"{_PRIMER.value}: holds no notes to continue")
    return primer


def main() -> int:
    """Plays as the flags say."""
    workdir, output = cli.required(_WORKDIR), cli.required(_OUTPUT)
    if not _TEMPERATURE.value > 0:
        raise UserError(f"--temperature={_TEMPERATURE.value}: expected a number above 0")
    run = load_run(workdir)
    primer = _primer(run.get("sustain", "ignore"))
    startup.import_tensorflow()
    from trainer import mirror
    from trainer.model import load_model
    from trainer.sampling import Player

    trained = load_model(workdir)
    samples = Player(trained.model).play(
        primer,
        num_notes=_NUM_NOTES.value,
        num_samples=_NUM_SAMPLES.value,
        temperature=_TEMPERATURE.value,
        seed=_SEED.value,
        quiet=_QUIET.value,
    )
    storage.make_directories(output)
    _remove_former(output)
    with mirror.uploaded(output, last=[_DOCUMENT_NAME]) as directory:
        files = [
            _write_sample(directory, index, notes, samples.primer_notes) for index, notes in enumerate(samples.notes)
        ]
        if _NUM_NOTES.value > 1:
            _draw_distributions(run, directory, samples.notes, samples.primer_notes)
        document = {
            "workdir": absolute(workdir),
            "train_step": trained.train_step,
            "primer": absolute(_PRIMER.value) if _PRIMER.value else None,
            "primer_notes": samples.primer_notes,
            "num_notes": _NUM_NOTES.value,
            "num_samples": _NUM_SAMPLES.value,
            "temperature": _TEMPERATURE.value,
            "seed": _SEED.value,
            "notes_per_second": samples.notes_per_second,
            "samples": files,
        }
        write_json(os.path.join(directory, _DOCUMENT_NAME), document)
    if not _QUIET.value:
        print(
            f"done: {_NUM_SAMPLES.value} x {_NUM_NOTES.value} notes at {samples.notes_per_second:,.0f} notes/s"
            + (f", sound by {files[0]['synthesizer']}" if _AUDIO.value else "")
            + f"; {output}"
        )
    return 0


def _write_sample(output: str, index: int, notes: Notes, primer_notes: int) -> dict[str, object]:
    """Writes a sample's files; returns its entry in samples.json."""
    from trainer import plots, sound

    stem = os.path.join(output, f"sample-{index:03d}")
    write_midi(notes, f"{stem}.mid")
    plots.piano_roll(notes, f"{stem}.png", max_notes=_ROLL_NOTES, primer_notes=primer_notes)
    entry: dict[str, object] = {"midi": f"sample-{index:03d}.mid", "seconds": notes.seconds}
    if _AUDIO.value:
        entry["synthesizer"] = sound.render_wav(notes, f"{stem}.wav")
    return entry


def _remove_former(output: str) -> None:
    """Removes what an earlier call left, samples.json first, so that it never names samples of two calls."""
    names = [_DOCUMENT_NAME, "distributions.png"]
    names += [name for name in storage.list_names(output) if re.fullmatch(r"sample-\d{3,}\.(mid|png|wav)", name)]
    for name in names:
        storage.remove(os.path.join(output, name))


def _draw_distributions(run: dict[str, Any], output: str, samples: list[Notes], primer_notes: int) -> None:
    """Draws the generated notes' distributions over those of the corpus that the model was trained on."""
    from notes.manifest import Manifest
    from trainer import plots

    histograms = {
        "generated": sum((Histograms.from_notes(notes[primer_notes:]) for notes in samples), Histograms.zeros())
    }
    try:
        manifest = Manifest.load(run.get("data", ""))
        if manifest.sha256 == run.get("dataset"):
            histograms = {"corpus": manifest.histograms("train"), **histograms}
    except UserError:
        pass  # The dataset may have been moved or replaced since; the samples do not need it.
    plots.distributions(histograms, os.path.join(output, "distributions.png"))


if __name__ == "__main__":
    cli.run(main, usage="--workdir=DIR --output=DIR [flags]\n" + __doc__)
