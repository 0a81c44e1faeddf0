"""Generates music with a trained model: `sostenuto generate --workdir=DIR --output=DIR`."""

import dataclasses
import logging
import os
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags

from sostenuto import cli, storage
from sostenuto.errors import UserError
from sostenuto.music.histograms import Histograms
from sostenuto.music.midi import Sustain, as_written, read_midi, read_pedal, write_midi, written_primer
from sostenuto.music.notes import Notes
from sostenuto.music.pedal import NO_PEDAL, continued_pedal
from sostenuto.progress import track
from sostenuto.text import counted
from trainer.config_fields import MAX_NOTES, MAX_SAMPLES
from trainer.generation import samples
from trainer.generation.composers import composer_ids
from trainer.generation.controls import DENSITIES, REPEATS, TEMPOS, Controls, divide_us
from trainer.generation.sampling_flags import SECONDS, define_sampling_flags
from trainer.workdir.layout import absolute, dataset, load_config, load_run
from trainer.workdir.outputs import check_output_directory, check_writable
from trainer.workdir.samples_index import SampleEntry, SamplesIndex

if TYPE_CHECKING:
    from trainer.generation.sampler import Samples

logger = logging.getLogger(__name__)

_DEFAULT_NOTES = 512
_MAX_TOTAL = 10_000_000  # notes of a call, which are all in memory

USAGE = """--workdir=DIR --output=DIR [flags]

Generates music with a trained model: MIDI files, piano rolls and, with --audio, sound.
"""
EXAMPLES = (
    "--workdir=run --output=music",
    "--workdir=run --output=music --primer=my.mid --primer_seconds=20 --num_samples=4 --audio",
    "--workdir=run --output=music --temperature=0.9,pitch=1 --top_p=0.95",
    "--workdir=run --output=music --composer='Frédéric Chopin' --seconds=90",
    '--workdir=run --output=music --key="D minor" --range=C2-C6 --density=8',
    "--workdir=run/export --output=music",
)

cli.start_group("input and output")
_WORKDIR = flags.DEFINE(cli.Path("DIR"), "workdir", None, "Workdir of the trained model, or its export.")
_OUTPUT = flags.DEFINE(
    cli.Path("DIR"), "output", None,
    "Directory for the samples. It replaces those of an earlier call, and no other file.",
)  # fmt: skip
_PRIMER = flags.DEFINE(cli.Path("FILE"), "primer", None, "MIDI file to continue. (default: start from silence)")
_PRIMER_SECONDS = flags.DEFINE_float(
    "primer_seconds", None, "Seconds of the primer to use, from its first note. (default: all of it)"
)
_AUDIO = flags.DEFINE_bool("audio", False, "Also write a .wav of each sample.")
cli.start_group("sampling")
_COMPOSER = flags.DEFINE(
    cli.Text("NAME"), "composer", "", "Composer in whose style to play. (default: none in particular)"
)
_NUM_NOTES = flags.DEFINE_integer(
    "num_notes", None,
    f"Notes to generate for each sample, unless it ends before: at most {MAX_NOTES:,}. (default: {_DEFAULT_NOTES}, or "
    "the notes of --seconds)",
    lower_bound=1, upper_bound=MAX_NOTES,
)  # fmt: skip
_SECONDS = flags.DEFINE_float(
    "seconds", None,
    "Lead each sample to an end in the last quarter of these seconds, counted from its first generated note. "
    "(default: no limit)",
)  # fmt: skip
_NUM_SAMPLES = flags.DEFINE_integer(
    "num_samples", 1,
    f"Samples to generate, all at once: at most {MAX_SAMPLES:,}, and {_MAX_TOTAL:,} notes in all.",
    lower_bound=1, upper_bound=MAX_SAMPLES,
)  # fmt: skip
_SAMPLING = define_sampling_flags()
_PEDAL = flags.DEFINE_bool(
    "pedal", None, "Add a sustain pedal (controller 64) by a rule. (default: true for a dataset with --sustain=ignore)"
)
cli.start_group("controls")
_KEY = flags.DEFINE(
    cli.Text("KEY"), "key", None, 'Key of the generated pitches, such as "D minor". (default: any pitch)'
)
_RANGE = flags.DEFINE(
    cli.Text("NOTE-NOTE"), "range", None,
    "Lowest and highest generated note, such as C2-C7 or 36-96. (default: the range of the training notes)",
)  # fmt: skip
_DENSITY = flags.DEFINE_float(
    "density", 0.0, "Generated notes per second to approach; 0 disables.",
    lower_bound=DENSITIES.minimum, upper_bound=DENSITIES.maximum,
)  # fmt: skip
_TEMPO = flags.DEFINE_float(
    "tempo", 1.0, "Play each sample, its primer included, this many times as fast.",
    lower_bound=TEMPOS.minimum, upper_bound=TEMPOS.maximum,
)  # fmt: skip
_AVOID_REPEATS = flags.DEFINE_integer(
    "avoid_repeats", 0, "Generate no run of this many pitches twice within 4,096 notes; 0 disables.",
    lower_bound=int(REPEATS.minimum), upper_bound=int(REPEATS.maximum),
)  # fmt: skip

# Notes of a piano roll, and those of them before the continuation.
_ROLL_NOTES = 2000
_ROLL_PRIMER_NOTES = 200


def main() -> int:
    """Generates the samples that the flags ask for."""
    workdir, output = cli.require_flag(_WORKDIR), cli.require_flag(_OUTPUT)
    num_notes, num_samples = _choose_num_notes(), _NUM_SAMPLES.value
    sampling = {"num_notes": num_notes, "num_samples": num_samples, **_SAMPLING.parse()}
    controls = _parse_controls()
    run = load_run(workdir)
    composer_ids(_COMPOSER.value, 1, run.composers or ())
    sustain = run.sustain or "ignore"
    has_pedal = _choose_pedal(workdir, sustain)
    primer, primer_pedal = _read_primer(sustain)
    files = _list_files(num_samples, num_notes)
    check_output_directory(output)
    if earlier := samples.require_free(output, files):
        logger.info(f"replacing the {counted(len(earlier), 'file')} that an earlier call wrote to {output}")
    check_writable(output)
    load_config(workdir)
    from sostenuto.music import plots

    played, train_step = _play(
        workdir, primer, **sampling, seconds=_SECONDS.value, composers=_COMPOSER.value, controls=controls
    )
    primer_pedal = divide_us(primer_pedal, controls.tempo)
    logger.info(f"writing {counted(num_samples, 'sample')}, each with its piano roll{' and sound' * _AUDIO.value}")
    with samples.replace_samples(output, files) as directory:
        entries, generated, primer_notes = _write_samples(directory, played, primer, primer_pedal, has_pedal)
        if generated.step.any():
            corpus = {"corpus": manifest.histograms("train")} if (manifest := dataset(run)) else {}
            plots.distributions({**corpus, "generated": generated}, os.path.join(directory, samples.DISTRIBUTIONS_NAME))
        else:
            files = [name for name in files if name != samples.DISTRIBUTIONS_NAME]
        SamplesIndex(
            workdir=absolute(workdir), train_step=train_step,
            primer=absolute(_PRIMER.value) if _PRIMER.value else None, primer_notes=primer_notes,
            composer=_COMPOSER.value or None, max_seconds=_SECONDS.value, **sampling, **dataclasses.asdict(controls),
            sustain=sustain, pedal=has_pedal, notes_per_second=played.notes_per_second, files=files, samples=entries,
        ).save(os.path.join(directory, samples.INDEX_NAME))  # fmt: skip
    count = int(generated.pitch.sum())
    joined = sum(map(len, played.notes)) - num_samples * len(primer) - count
    sound = f", sound by {entries[0].synthesizer}" if _AUDIO.value else ""
    cli.print_result(
        f"done: {_describe(played, count, joined)}{sound}; wrote {len(files) + 1} files to {output}, listed in "
        f"{storage.join(output, samples.INDEX_NAME)}"
    )
    return 0


def _describe(played: "Samples", count: int, joined: int) -> str:
    """Returns the numbers of samples and of their generated notes; `joined` notes were joined with others."""
    ended = sum(played.has_ended)
    return (
        counted(len(played.notes), "sample")
        + (f" ({ended:,} ended before --num_notes)" if ended else "")
        + f" with {counted(count, 'generated note')}"
        + (f" ({joined:,} more were joined with another of the same pitch and onset)" if joined else "")
        + f" at {played.notes_per_second:,.0f} notes/s"
    )


def _choose_num_notes() -> int:
    """Returns the most notes of a sample; raises UserError for flags out of their bounds."""
    seconds, num_samples = _SECONDS.value, _NUM_SAMPLES.value
    if seconds is not None and seconds not in SECONDS:
        raise UserError(f"--seconds={seconds:g}: expected a number {SECONDS}")
    if not (num_notes := _NUM_NOTES.value):
        num_notes = _DEFAULT_NOTES if seconds is None else min(MAX_NOTES, _MAX_TOTAL // num_samples)
    if num_notes * num_samples > _MAX_TOTAL:
        raise UserError(
            f"--num_notes={num_notes} --num_samples={num_samples}: got {num_notes * num_samples:,} notes in all, "
            f"expected at most {_MAX_TOTAL:,}. Pass a smaller --num_samples"
        )
    return num_notes


def _parse_controls() -> Controls:
    """Returns the controls that the flags ask for."""
    try:
        return Controls(
            key=_KEY.value, range=_RANGE.value, density=_DENSITY.value, tempo=_TEMPO.value,
            avoid_repeats=_AVOID_REPEATS.value,
        )  # fmt: skip
    except UserError as error:
        raise UserError(f"--{error}") from None


def _list_files(num_samples: int, num_notes: int) -> list[str]:
    """Returns the names of the files to write, but for samples.json."""
    names = samples.list_names(num_samples, "mid", "png", *["wav"] * _AUDIO.value)
    return [*names, samples.DISTRIBUTIONS_NAME] if num_notes > 1 else names


def _choose_pedal(workdir: str, sustain: Sustain) -> bool:
    """Returns whether the samples get a pedal by rule."""
    if _PEDAL.value and sustain == "extend":
        raise UserError(
            f"--pedal: the durations of {workdir} include the pedal already (sustain=extend). Leave the flag out"
        )
    return sustain == "ignore" if _PEDAL.value is None else _PEDAL.value


def _read_primer(sustain: Sustain) -> tuple[Notes, np.ndarray]:
    """Reads the notes to continue, with durations as in training, and their pedal; silence without --primer."""
    seconds = _PRIMER_SECONDS.value
    if not _PRIMER.value:
        if seconds is not None:
            raise UserError(f"--primer_seconds={seconds:g}: there is no --primer to cut. Pass both")
        return Notes.empty(), NO_PEDAL
    if seconds is not None and not seconds > 0:
        raise UserError(f"--primer_seconds={seconds:g}: expected a number above 0")
    data = storage.read_bytes(_PRIMER.value)
    notes = read_midi(data, _PRIMER.value, sustain=sustain).notes
    if not len(notes):
        raise UserError(f"{_PRIMER.value}: has no notes to continue. Pass another --primer")
    if seconds is not None:
        notes = notes[: int(np.searchsorted(notes.onset_us, seconds * 1e6))]
    # Extended durations include the pedal already.
    return notes, read_pedal(data, _PRIMER.value) if sustain == "ignore" else NO_PEDAL


def _play(workdir: str, primer: Notes, **sampling: Any) -> tuple["Samples", int]:
    """Generates music; returns it and the train_steps that trained the weights."""
    from trainer.distribution.faults import translate_gpu_errors
    from trainer.generation.sampler import NoteSampler
    from trainer.workdir.load_model import load_model

    with translate_gpu_errors("Pass a smaller --num_samples"):
        trained = load_model(workdir)
        return NoteSampler(trained).sample(primer, **sampling, quiet=False), trained.train_step


def _write_samples(
    directory: str, played: "Samples", primer: Notes, primer_pedal: np.ndarray, has_pedal: bool
) -> tuple[list[SampleEntry], Histograms, int]:
    """Writes the files of the samples; returns their entries of samples.json, what was generated, and primer notes."""
    from sostenuto.music import audio, plots

    entries, generated, primer_notes = [], Histograms.zeros(), 0
    wholes = track(played.notes, total=len(played.notes), unit="sample", description="writing")
    for index, whole in enumerate(wholes):
        name = f"sample-{index:03d}"
        stem = os.path.join(directory, name)
        pedal = continued_pedal(primer_pedal, whole, len(primer), by_rule=has_pedal)
        write_midi(whole, f"{stem}.mid", pedal)
        # Pictures and counts show the notes of the MIDI file, which may be fewer.
        notes, is_primer = as_written(whole, pedal), written_primer(whole, len(primer), pedal)
        primer_notes = int(is_primer.sum())
        # The roll shows only the end of a long primer, so that it includes the continuation.
        first = max(min(len(notes) - _ROLL_NOTES, primer_notes - _ROLL_PRIMER_NOTES), 0)
        title = f"from note {first + 1:,}, at {notes.onset_us[first] / 1e6:,.1f} s" if first else ""
        plots.piano_roll(
            notes[first:], f"{stem}.png", title=title, max_notes=_ROLL_NOTES, primer_notes=is_primer[first:]
        )
        player = audio.render_wav(notes, f"{stem}.wav", pedal) if _AUDIO.value else None
        entries.append(SampleEntry(
            midi=f"{name}.mid", generated_before=samples.generated_before(is_primer), notes=len(notes),
            seconds=notes.seconds, has_ended=played.has_ended[index], synthesizer=player,
        ))  # fmt: skip
        columns = (notes.pitch, notes.onset_us, notes.offset_us, notes.velocity)
        generated += Histograms.from_notes(Notes.from_onsets(*(column[~is_primer] for column in columns)))
    return entries, generated, primer_notes


if __name__ == "__main__":
    cli.run(main, usage=USAGE, required=(_WORKDIR, _OUTPUT), examples=EXAMPLES)
