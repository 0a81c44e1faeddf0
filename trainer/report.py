"""Writes a workdir's page: `sostenuto report --workdir=DIR`.

report.html, in the workdir, shows and plays what a run has come to: its curves, scores and warnings, and eight samples,
which are played first where the workdir has none. It is one file that needs no network, to be kept or passed on.
"""

import logging

from absl import flags

from sostenuto import cli, storage
from sostenuto.data.manifest import Manifest
from sostenuto.errors import UserError
from trainer import startup
from trainer.workdir.layout import METRICS_NAME, dataset, load_config, load_run

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
    """Writes the page, and the samples where there are none."""
    from trainer.generation import samples
    from trainer.reporting import page

    workdir = cli.require_flag(_WORKDIR)
    load_config(workdir)
    run = load_run(workdir)
    if not storage.exists(storage.join(workdir, METRICS_NAME)):
        raise UserError(f"{workdir}: nothing was trained in it yet (it has no {METRICS_NAME}): train first")
    if _DATA.value:
        given = Manifest.load(_DATA.value)
        if given.sha256 != run.dataset:
            raise UserError(f"--data={_DATA.value}: is another dataset than the one that {workdir} was trained on")
        manifest: Manifest | None = given
    else:
        manifest = dataset(run)
    if storage.exists(storage.join(workdir, samples.SAMPLES_NAME, samples.DOCUMENT_NAME)):
        samples.add_sounds(workdir, quiet=False)
    else:
        _play(workdir, manifest, run.sustain or "ignore")
    logger.info("writing the report's page")
    cli.print_result(page.write(workdir, comparisons=_COMPARE_WITH.value))
    return 0


def _play(workdir: str, manifest: Manifest | None, sustain: str) -> None:
    """Makes the samples."""
    startup.import_tensorflow()
    from trainer.generation import samples
    from trainer.generation.sampler import NoteSampler
    from trainer.workdir.load_model import load_model

    trained = load_model(workdir)
    primers = samples.primers(manifest) if manifest else []
    if not primers and trained.model.config.positions == "last":
        return  # It was never shown how a performance begins.
    samples.make(
        NoteSampler(trained.model), primers, workdir, train_step=trained.train_step, sustain=sustain, quiet=False
    )


if __name__ == "__main__":
    cli.run(main, usage=USAGE, required=(_WORKDIR,), examples=EXAMPLES)
