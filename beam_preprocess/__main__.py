"""The command `sostenuto preprocess`: flags, one call, a summary."""

import contextlib
import dataclasses
import sys
import time
from typing import Any

from absl import flags

from beam_preprocess.config import COMPOSER_COLUMN, DIRECTORY, PIECE_FROM, SUSTAIN, Config
from sostenuto import cli
from sostenuto.errors import UserError

EXIT_FAILED = 1

USAGE = """--input=URI --output=DIR [flags] [-- Beam's options]

Writes a corpus of MIDI files as a dataset: TFRecords, one record a performance, and dataset.json.

Options of Apache Beam, such as --runner and --project, follow --.
"""
EXAMPLES = (
    "--input=maestro-v3.0.0-midi.zip --output=dataset",
    "--input=my-midi --output=dataset --piece_from=directory",
    "--input=gs://my-bucket/maestro.zip --output=gs://my-bucket/dataset -- --runner=DataflowRunner "
    "--project=my-project --region=europe-west1 --temp_location=gs://my-bucket/temp",
)

cli.start_group("input and output")
_INPUT = flags.DEFINE(
    cli.Path("URI"), "input", None, "Corpus: a directory, a glob in quotes, a .zip such as MAESTRO's, or one MIDI file."
)
_OUTPUT = flags.DEFINE(cli.Path("DIR"), "output", None, "Directory for the dataset.")
flags.DEFINE(
    cli.Text("NAME"),
    "licence",
    "",
    "Licence of the corpus, such as 'CC BY-NC-SA 4.0', for the dataset and for model cards. (default: not recorded)",
)
flags.DEFINE_bool("overwrite", False, "Replace the dataset in the output directory.")
flags.DEFINE_integer(
    "num_shards", 0, "TFRecord files per split, at most 99999; 0 writes about 100 performances into each."
)
cli.start_group("splits and notes")
flags.DEFINE(
    cli.Path("FILE"),
    "metadata",
    None,
    "CSV with MAESTRO's columns, for splits, composers and titles; 'none' uses none. "
    "(default: the one in the input, if any)",
)
flags.DEFINE(
    cli.Texts("TRAIN,VALIDATION,TEST"),
    "split_fractions",
    ["0.8", "0.1", "0.1"],
    "Fractions of the pieces for each split, without a CSV. A fraction of 0 allows an empty split, also with a CSV.",
)
flags.DEFINE_enum(
    "piece_from",
    "path",
    PIECE_FROM,
    "Unit that stays within one split, without a CSV: a file (path) or a directory of files.",
)
flags.DEFINE(
    cli.Text("COLUMN"),
    "composer_from",
    COMPOSER_COLUMN,
    "Column of the CSV that names the composer, or what else a model learns in its place, such as a genre; "
    f"'{DIRECTORY}' takes the name of the file's directory.",
)
flags.DEFINE_enum(
    "sustain", "ignore", SUSTAIN, "End a note when its key is released, or extend it while the sustain pedal is down."
)
cli.start_group("broken files and running")
flags.DEFINE_float("max_rejected_fraction", 0.1, "Fail if more than this fraction of files is rejected; 1 never fails.")
flags.DEFINE_bool(
    "isolate_parsing",
    None,
    "Parse in child processes, and reject a file that crashes the parser, blocks it or exhausts memory. "
    "(default: only with the runner of a cluster)",
)
_NO_WAIT = flags.DEFINE_bool(
    "no_wait", False, "Start a job on Dataflow and exit. The same command without this flag waits for the job."
)
_ANNOUNCE = flags.DEFINE_bool(
    "announce",
    False,
    "For jobs that wait for the dataset with sostenuto wait: renew a sign of life in the output each minute, and leave "
    "the reason of a failure there, in failed.json. The next attempt removes it.",
)


def main(beam_args: list[str]) -> int:
    """Writes the dataset that the flags describe, and returns the exit status."""
    started = time.monotonic()
    values: dict[str, Any] = {field.name: flags.FLAGS[field.name].value for field in dataclasses.fields(Config)}
    fractions = values["split_fractions"]
    try:
        values["split_fractions"] = tuple(map(float, fractions))
    except ValueError as error:
        raise UserError(f"--split_fractions={','.join(fractions)}: expected numbers, as in 0.8,0.1,0.1") from error
    config = Config(**values)
    from beam_preprocess.engines.job_errors import JobFailedError
    from beam_preprocess.preprocess import find_or_write
    from beam_preprocess.summary import summarize
    from sostenuto.data.preparation import announced

    try:
        with announced(config.output) if _ANNOUNCE.value else contextlib.nullcontext():
            manifest, is_new = find_or_write(config, beam_args=beam_args, wait=not _NO_WAIT.value)
    except JobFailedError as error:
        cli.print_error(error, EXIT_FAILED)
        return EXIT_FAILED
    if manifest is not None:
        cli.print_result(summarize(manifest, seconds=time.monotonic() - started, is_new=is_new))
    return cli.EXIT_OK


def _explain_beam_option(name: str, argv: list[str]) -> str | None:
    """Returns the correct command line if an unknown flag is an option of Beam, else None."""
    from beam_preprocess.beam_options import option_names

    beam_names = option_names().difference(flags.FLAGS)
    if name not in beam_names:
        return None
    current = own = list[str]()
    beam_options: list[str] = []
    for argument in argv:
        # A value in an argument of its own follows its flag.
        if argument.startswith("-"):
            current = beam_options if argument.lstrip("-").partition("=")[0] in beam_names else own
        current.append(argument)
    return f"--{name}: an option of Beam. Put Beam's options after --: {cli.command_line([*own, '--', *beam_options])}"


if __name__ == "__main__":
    arguments = sys.argv
    separator = arguments.index("--") if "--" in arguments else len(arguments)
    cli.run(
        lambda: main(arguments[separator + 1 :]),
        usage=USAGE,
        argv=arguments[:separator],
        required=(_INPUT, _OUTPUT),
        examples=EXAMPLES,
        explain_unknown=lambda name: _explain_beam_option(name, [*arguments[1:separator], *arguments[separator + 1 :]]),
    )
