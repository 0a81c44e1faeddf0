"""The command: flags, one call, a summary."""

import sys
import time
from typing import cast

from absl import flags

from beam_preprocess.config import PIECE_FROM, SUSTAIN, Config, PieceFrom
from notes import cli
from notes.errors import UserError
from notes.midi import Sustain

EXIT_FAILED = 1

USAGE = """--input=URI --output=DIR [flags] [-- beam pipeline options]

Writes a corpus of MIDI files as a dataset: TFRecords, one record a performance, and dataset.json.
"""

_INPUT = flags.DEFINE_string(
    "input", None, "the corpus: a directory, a glob in quotes, a .zip such as MAESTRO's own, or one MIDI file"
)
_OUTPUT = flags.DEFINE_string("output", None, "the directory for the dataset")
_METADATA = flags.DEFINE_string(
    "metadata",
    None,
    "a CSV with MAESTRO's columns, which gives splits, composers and titles; by default the one that lies in the "
    "input, if any; 'none' uses none",
)
_SPLIT_FRACTIONS = flags.DEFINE_list(
    "split_fractions",
    ["0.8", "0.1", "0.1"],
    "without a CSV: shares of the pieces for train, validation and test; with or without, a share of 0 permits an "
    "empty split",
)
_PIECE_FROM = flags.DEFINE_enum(
    "piece_from", "path", PIECE_FROM, "without a CSV, what is one piece, kept within one split: a file or a directory"
)
_NUM_SHARDS = flags.DEFINE_integer("num_shards", 0, "TFRecord files a split; 0: about 100 performances each")
_SUSTAIN = flags.DEFINE_enum(
    "sustain", "ignore", SUSTAIN, "a note's duration ends when its key is released, or is extended by the sustain pedal"
)
_MAX_REJECTED_FRACTION = flags.DEFINE_float(
    "max_rejected_fraction", 0.1, "the share of files that may be refused as broken before the run gives up"
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "replace the dataset that the output directory holds")
_ISOLATE_PARSING = flags.DEFINE_bool(
    "isolate_parsing",
    None,
    "parse in child processes, so that a file that crashes the parser, blocks it or exhausts memory is refused; by "
    "default only where a cluster's runner is named",
)
_NO_WAIT = flags.DEFINE_bool(
    "no_wait", False, "on Dataflow: start the job and leave it to itself; the same command without it waits for the job"
)


def main(beam_args: list[str]) -> int:
    """Reads the flags, writes the dataset, and returns the exit status."""
    started = time.monotonic()
    config = Config(
        input=cli.required(_INPUT),
        output=cli.required(_OUTPUT),
        metadata=_METADATA.value,
        split_fractions=_fractions(_SPLIT_FRACTIONS.value),
        piece_from=cast(PieceFrom, _PIECE_FROM.value),
        num_shards=_NUM_SHARDS.value,
        sustain=cast(Sustain, _SUSTAIN.value),
        max_rejected_fraction=_MAX_REJECTED_FRACTION.value,
        overwrite=_OVERWRITE.value,
        isolate_parsing=_ISOLATE_PARSING.value,
    )
    from beam_preprocess.dataflow import JobFailedError
    from beam_preprocess.run import preprocess
    from beam_preprocess.summary import summarize

    try:
        manifest = preprocess(config, beam_args=beam_args, wait=not _NO_WAIT.value)
    except JobFailedError as error:
        cli.complain(error, EXIT_FAILED)
        return EXIT_FAILED
    if manifest is not None:
        cli.show(summarize(manifest, seconds=time.monotonic() - started))
    return cli.EXIT_OK


def _fractions(values: list[str]) -> tuple[float, ...]:
    try:
        return tuple(map(float, values))
    except ValueError as error:
        raise UserError(f"--split_fractions={','.join(values)}: expected numbers, as in 0.8,0.1,0.1") from error


if __name__ == "__main__":
    arguments = sys.argv
    separator = arguments.index("--") if "--" in arguments else len(arguments)
    cli.run(lambda: main(arguments[separator + 1 :]), usage=USAGE, argv=arguments[:separator])
