"""Scores a trained model on a split: `python -m trainer.evaluate --workdir=DIR --data=DIR --split=test`."""

import os

from absl import flags

from notes import cli, storage
from notes.errors import UserError
from notes.manifest import SPLITS, Manifest
from trainer import startup
from trainer.workdir import write_json

_WORKDIR = flags.DEFINE_string("workdir", None, "the workdir of the trained model")
_DATA = flags.DEFINE_string("data", None, "the dataset: a directory that beam_preprocess wrote")
_SPLIT = flags.DEFINE_enum("split", "test", SPLITS, "what to score")
_OUTPUT = flags.DEFINE_string("output", None, "the file to write; evaluation-SPLIT.json in the workdir by default")
_QUIET = flags.DEFINE_bool("quiet", False, "print nothing but errors")


def main() -> int:
    """Scores as the flags say."""
    workdir, data = cli.required(_WORKDIR), cli.required(_DATA)
    manifest = Manifest.load(data)
    if manifest.notes(_SPLIT.value) <= manifest.performances(_SPLIT.value):
        raise UserError(
            f"{data}: no performance of the {_SPLIT.value} split has a second note, there is nothing to score"
        )
    path = _OUTPUT.value or os.path.join(workdir, f"evaluation-{_SPLIT.value}.json")
    storage.make_directories(os.path.dirname(path) or ".")
    startup.import_tensorflow()
    from trainer.dataset import load_table
    from trainer.model import load_model
    from trainer.scoring import Scorer, confidence_intervals, figures, sums

    trained = load_model(workdir)
    scorer = Scorer(trained.model)
    residuals = None
    if trained.model.config.model == "regression":
        residuals = scorer.fit_residuals(load_table(manifest, "validation"), quiet=_QUIET.value)
    table = load_table(manifest, _SPLIT.value)
    scores = scorer.score(table, residuals, quiet=_QUIET.value)
    evaluation = {
        "split": _SPLIT.value,
        **figures(sums(scores)),
        "confidence_95": confidence_intervals(scores, table.lengths),
        "performances": manifest.performances(_SPLIT.value),
        "train_step": trained.train_step,
        "sustain": manifest.document["options"].get("sustain"),
        "dataset": manifest.sha256,
    }
    if residuals is not None:
        evaluation["residuals"] = {field: getattr(residuals, field)._asdict() for field in residuals._fields}
    write_json(path, evaluation)
    if not _QUIET.value:
        nats = evaluation["nats_per_note"]
        low, high = evaluation["confidence_95"]["total"]
        print(
            f"{_SPLIT.value}: {nats['total']:.3f} nats/note ({low:.3f} to {high:.3f}) = pitch {nats['pitch']:.3f} "
            f"+ step {nats['step']:.3f} + duration {nats['duration']:.3f}; pitch right {evaluation['pitch_top1']:.1%}, "
            f"among the first five {evaluation['pitch_top5']:.1%}; "
            f"step within 30 ms {evaluation['step_within_30ms']:.1%}; {evaluation['notes']:,} notes\n{path}"
        )
    return 0


if __name__ == "__main__":
    cli.run(main, usage="--workdir=DIR --data=DIR [--split=NAME]\n" + __doc__)
