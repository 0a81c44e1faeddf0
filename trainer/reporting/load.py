"""Reads a workdir into a `RunReport`, without TensorFlow."""

import dataclasses
import logging
import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Final

from sostenuto import storage
from sostenuto.data.manifest import Manifest
from sostenuto.errors import UserError
from sostenuto.text import counted, printable
from trainer.config import Config
from trainer.evaluation import generation_metrics
from trainer.evaluation.distributions import DISTRIBUTIONS
from trainer.generation import samples
from trainer.workdir.evaluation_formats import Evaluation, GenerationEvaluation, SplitRecord
from trainer.workdir.formats import MetricsRecord, RunInfo, RunResult
from trainer.workdir.layout import METRICS_NAME, RESULT_NAME, dataset, load_config, load_export, load_run

logger = logging.getLogger(__name__)

PROGRAM: Final = "sostenuto"
"""The command of this project, as messages and pages name it."""

_EVALUATION_SPLITS: Final = ("test", "validation")  # in order of preference


@dataclasses.dataclass(frozen=True)
class RunReport:
    """The content of a workdir; an evaluation of another dataset than the run's is kept apart."""

    workdir: str  # as the user named it
    config: Config
    run: RunInfo
    records: Sequence[MetricsRecord]  # by train_step, at least one
    result: RunResult | None
    evaluations: Mapping[str, Evaluation]  # by split, test first
    generated: Mapping[str, GenerationEvaluation]  # by split, test first
    other_datasets: Sequence[SplitRecord]
    samples: samples.Samples | None
    manifest: Manifest | None  # None if it is no longer at its path
    continuable_split: str | None  # one with performances that are long enough to continue and compare
    comparisons: Sequence[tuple[str, Mapping[str, Evaluation]]]  # other runs: name, and evaluations by split

    @property
    def name(self) -> str:
        """The last part of the workdir's path."""
        return os.path.basename(self.workdir.rstrip("/")) or self.workdir

    @property
    def best_train_step(self) -> int | None:
        """The train_step of the best weights; None until the run has finished."""
        return None if self.result is None else self.result.best_train_step or self.result.train_step

    @property
    def scores(self) -> list[tuple[int, float]]:
        """The validation scores, as (train_step, nats/note)."""
        return [(record.train_step, record.val_nats) for record in self.records if record.val_nats is not None]

    @property
    def best_score(self) -> tuple[int, float] | None:
        """The lowest validation score, as (train_step, nats/note)."""
        return min(self.scores, key=lambda score: score[1], default=None)

    @property
    def scorable_split(self) -> str | None:
        """A split that `sostenuto evaluate` can score with this run's model, or None."""
        manifest = self.manifest
        if manifest is None:
            return "test"
        filled = [split for split in _EVALUATION_SPLITS if manifest.notes(split) > manifest.performances(split)]
        if self.config.model == "regression" and "validation" not in filled:
            return None  # The spread of its errors is measured on the validation split.
        return filled[0] if filled else None

    def comparisons_on(self, split: str) -> list[tuple[str, Evaluation]]:
        """Returns the names and evaluations of the other runs that have a score on a split."""
        return [(name, evaluations[split]) for name, evaluations in self.comparisons if split in evaluations]

    def command(self, name: str, *flags: str) -> str:
        """Returns a shell command for this run; DATASET stands for a dataset that is no longer at its path."""
        data = str(self.run.data) if self.manifest else "DATASET"
        return shlex.join([PROGRAM, name, f"--workdir={self.workdir}", f"--data={data}", *flags])


def load_report(
    workdir: str, *, named: str | None = None, result: RunResult | None = None, comparisons: Sequence[str] = ()
) -> RunReport:
    """Reads a workdir.

    Args:
        workdir: a local path or a gs:// URI.
        named: its name on the page, if it is the local copy of a remote workdir.
        result: how the run ended, if result.json is not yet written.
        comparisons: workdirs of other runs, each with a score of the same split and dataset.
    """
    config, records, run = load_config(workdir), load_records(workdir), load_run(workdir)
    all_evaluations, all_generated = Evaluation.load_splits(workdir), GenerationEvaluation.load_splits(workdir)
    for split, comparison in all_generated.items():
        _check_comparison(comparison, comparison.path(workdir, split))
    evaluations = {split: record for split, record in all_evaluations.items() if record.dataset == run.dataset}
    generated = {split: record for split, record in all_generated.items() if record.dataset == run.dataset}
    manifest = dataset(run)
    return RunReport(
        workdir=named or workdir,
        config=config,
        run=run,
        records=records,
        result=result or RunResult.load_if_exists(storage.join(workdir, RESULT_NAME)),
        evaluations=evaluations,
        generated=generated,
        other_datasets=[
            record for record in (*all_evaluations.values(), *all_generated.values()) if record.dataset != run.dataset
        ],
        samples=samples.load_samples(workdir),
        manifest=manifest,
        continuable_split=find_continuable_split(manifest) if manifest and not generated else "test",
        comparisons=[_load_comparison(other, evaluations) for other in comparisons],
    )


def _check_comparison(comparison: GenerationEvaluation, path: str) -> None:
    """Raises UserError if a comparison lacks a distribution, or has other bins or no notes."""
    expected = {name: len(distribution.edges) - 1 for name, distribution in DISTRIBUTIONS.items()}
    for kind, counts in comparison.counts.items():
        has_notes = all(any(bins) for bins in counts.values())
        if {name: len(bins) for name, bins in counts.items()} != expected or not has_notes:
            raise UserError(f"{path}: counts.{kind}: expected counts of {expected}. {comparison.REMEDY}")
    if missing := [name for name in expected if name not in comparison.distributions]:
        raise UserError(f"{path}: distributions.{missing[0]} is missing. {comparison.REMEDY}")
    if comparison.pictured >= len(comparison.primers):
        primers = counted(len(comparison.primers), "primer")
        raise UserError(f"{path}: pictured: got {comparison.pictured}, expected one of {primers}. {comparison.REMEDY}")


def load_records(workdir: str) -> list[MetricsRecord]:
    """Returns the lines of metrics.jsonl by train_step; raises UserError if there are none."""
    if load_export(workdir):
        raise UserError(f"{workdir}: is an export, which has no reports. Pass the workdir of its run")
    path = storage.join(workdir, METRICS_NAME)
    records = MetricsRecord.load_all(path) if storage.exists(path) else []
    if not records:
        raise UserError(f"{workdir}: nothing was trained in it yet. Train first, with {PROGRAM} train")
    return records


def find_continuable_split(manifest: Manifest) -> str | None:
    """Returns a split that `sostenuto evaluate --generated` can continue; None if all performances are too short."""
    for split in _EVALUATION_SPLITS:
        is_large = manifest.notes(split) >= 2 * generation_metrics.COMPARED_NOTES
        try:
            if is_large and generation_metrics.can_compare(manifest.read_performances(split)):
                return split
        except UserError as error:
            # The report does not need the dataset; evaluation names the reason too.
            logger.warning(printable(str(error)))
            return split
    return None


def _load_comparison(workdir: str, evaluations: Mapping[str, Evaluation]) -> tuple[str, Mapping[str, Evaluation]]:
    """Returns the name of another run, and its scores of the splits and datasets in `evaluations`."""
    name = f"{load_config(workdir).preset}, {os.path.basename(workdir.rstrip('/'))}"
    comparable = {
        split: evaluation
        for split, evaluation in Evaluation.load_splits(workdir).items()
        if split in evaluations and evaluation.dataset == evaluations[split].dataset
    }
    if not comparable:
        raise UserError(
            f"--compare_with={workdir}: expected a score of a split and dataset that this run was scored on too "
            f"({', '.join(evaluations) or 'none yet'}). Score both with sostenuto evaluate"
        )
    return name, comparable
