"""Writes a workdir's page: `sostenuto report --workdir=DIR`."""

import logging

from absl import flags

from sostenuto import cli, storage
from sostenuto.data.manifest import Manifest
from trainer.workdir.layout import check_dataset, dataset, load_config, load_run

logger = logging.getLogger(__name__)

USAGE = """--workdir=DIR [flags]

Writes report.html into a workdir: one file with curves, scores, warnings and eight samples. The samples are generated
first if the workdir has none.
"""
EXAMPLES = ("--workdir=run", "--workdir=run --compare_with=other-run,third-run")

cli.start_group("input and output")
_WORKDIR = flags.DEFINE(cli.Path("DIR"), "workdir", None, "Workdir of the run.")
_DATA = flags.DEFINE(
    cli.Path("DIR"),
    "data",
    None,
    "Dataset whose validation split is continued. (default: where the run found it, if it is still there)",
)
_COMPARE_WITH = flags.DEFINE(
    cli.Paths("DIR,..."),
    "compare_with",
    [],
    "Workdirs of other runs, scored on the same dataset, to compare with. (default: none)",
)


def main() -> int:
    """Writes the page, after the samples if there are none."""
    from trainer.generation import samples
    from trainer.reporting import load, page

    workdir = cli.require_flag(_WORKDIR)
    for directory in (workdir, *_COMPARE_WITH.value):
        load_config(directory)
    load.load_records(workdir)
    run = load_run(workdir)
    manifest = Manifest.load(_DATA.value) if _DATA.value else dataset(run)
    if manifest:
        check_dataset(manifest, run, workdir, remedy="Pass --data=DIR with that one")
    if storage.exists(storage.join(workdir, samples.SAMPLES_NAME, samples.INDEX_NAME)):
        samples.add_sounds(workdir, quiet=False)
    else:
        _write_samples(workdir, manifest, run.sustain or "ignore")
    logger.info("writing the report's page")
    cli.print_result(page.write(workdir, comparisons=_COMPARE_WITH.value))
    return 0


def _write_samples(workdir: str, manifest: Manifest | None, sustain: str) -> None:
    from trainer.distribution.faults import translate_gpu_errors
    from trainer.generation import samples
    from trainer.generation.sampler import NoteSampler
    from trainer.workdir.load_model import load_model

    with translate_gpu_errors():
        loaded = load_model(workdir)
        primers = samples.select_primers(manifest) if manifest else []
        if not primers and loaded.model.config.positions == "last":
            return  # The model never saw how a performance starts.
        samples.write_samples(
            NoteSampler(loaded), primers, workdir, train_step=loaded.train_step, sustain=sustain, quiet=False
        )


if __name__ == "__main__":
    cli.run(main, usage=USAGE, required=(_WORKDIR,), examples=EXAMPLES)
