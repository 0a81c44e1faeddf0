"""Scores a trained model on a split, or judges what it plays.

`sostenuto evaluate --workdir=DIR --split=test` scores how well it predicts each note of the split; with
`--generated`, it continues performances of the split, and what it plays is compared with real music. The split is of
the dataset that the run was trained on; the scores of another one, `--data=DIR`, go where `--output=FILE` says.
"""

import json
import logging
import os
from typing import Any

from absl import flags

from sostenuto import cli, storage
from sostenuto.data.manifest import SPLITS, Manifest
from sostenuto.data.performance import Performance
from sostenuto.errors import UserError
from trainer import startup
from trainer.by_field import numbers_by_field
from trainer.workdir.formats import RunInfo
from trainer.workdir.json_record import write_json
from trainer.workdir.layout import METRICS_NAME, load_config, load_dataset, load_run, resolved
from trainer.workdir.outputs import check_output_directory, check_writable

logger = logging.getLogger(__name__)

USAGE = """--workdir=DIR [--data=DIR --output=FILE] [--split=NAME] [--generated] [flags]

Scores how well a trained model predicts each note of a split. With --generated, it continues performances of the split
instead, and compares what it plays with real music.
"""
EXAMPLES = (
    "--workdir=run",
    "--workdir=run --split=validation --generated --temperature=0.9",
    "--workdir=run --data=other-dataset --output=other-scores.json",
)

cli.start_group("input and output")
_WORKDIR = flags.DEFINE(cli.Path("DIR"), "workdir", None, "Workdir of the trained model.")
_DATA = flags.DEFINE(
    cli.Path("DIR"),
    "data",
    None,
    "Dataset that beam_preprocess wrote. Another one than the run's needs --output. (default: the run's)",
)
_SPLIT = flags.DEFINE_enum("split", "test", SPLITS, "Split to score, or to continue and compare with.")
_OUTPUT = flags.DEFINE(
    cli.Path("FILE"),
    "output",
    None,
    "JSON file to write; with --generated, a figure of the same name as .png. "
    "(default: evaluation-SPLIT.json or generated-SPLIT.json in the workdir)",
)
cli.start_group("generated music")
_GENERATED = flags.DEFINE_bool("generated", False, "Compare what the model plays with real music.")
_NUM_PRIMERS = flags.DEFINE_integer(
    "num_primers",
    None,
    "Performances to continue. (default: all of the split that are long enough, at most 64)",
    lower_bound=1,
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

_OF_GENERATED = (_NUM_PRIMERS, _TEMPERATURE, _TOP_P, _SEED)


def main() -> int:
    """Scores, or judges, as the flags say."""
    workdir = cli.require_flag(_WORKDIR)
    for flag in _OF_GENERATED:
        if flag.present and not _GENERATED.value:
            raise UserError(f"--{flag.name}={flag.value}: nothing is continued without --generated: give both")
    load_config(workdir)
    run = load_run(workdir)
    manifest = Manifest.load(_DATA.value) if _DATA.value else load_dataset(workdir, run)
    path, is_of_run = _place(workdir, manifest, run)
    written = [path]
    if _GENERATED.value:
        written.append(_judge(workdir, manifest, path))
    else:
        _score(workdir, manifest, path)
    if is_of_run and storage.exists(storage.join(workdir, METRICS_NAME)):
        from trainer.reporting import page

        logger.info("writing the report's page")
        written.append(page.write(workdir))
    if is_of_run and not _GENERATED.value:
        from trainer.reporting import model_card

        card = model_card.refresh(workdir, manifest)
        written += [card] if card else []
    cli.print_result(f"wrote {', '.join(written)}")
    return 0


def _place(workdir: str, manifest: Manifest, run: RunInfo) -> tuple[str, bool]:
    """Returns the file to write, and whether it is the one that the run's page reads.

    Raises:
        UserError: the scores are of another dataset and no other file is named for them, or the file cannot be
            written, or another file would be lost.
    """
    own = os.path.join(workdir, f"{'generated' if _GENERATED.value else 'evaluation'}-{_SPLIT.value}.json")
    path = _OUTPUT.value or own
    directory = os.path.dirname(path) or "."
    is_of_run = resolved(path) == resolved(own)
    if is_of_run and manifest.sha256 != run.dataset:
        raise UserError(
            f"{manifest.directory}: is another dataset than the one that {workdir} was trained on. Pass --output=FILE, "
            "outside of the workdir, for its scores"
        )
    if not is_of_run:
        check_output_directory(directory)
        _require_replaceable(path)
    check_writable(directory)
    return path, is_of_run


def _require_replaceable(path: str) -> None:
    """Checks that no file is lost by writing to --output: one that is there must be of an earlier call."""
    if storage.is_directory(path):
        raise UserError(f"--output={path}: is a directory. Expected the name of a file")
    former = _former(path)
    taken = [path] if former is None else []
    if _GENERATED.value and not (former and "distributions" in former) and storage.exists(_picture(path)):
        taken.append(_picture(path))
    if taken:
        raise UserError(
            f"--output={path}: {taken[0]} exists, and is not of an earlier call. Move it, or choose another name"
        )


def _former(path: str) -> dict[str, Any] | None:
    """Returns what an earlier call wrote to a file: nothing where there is none, and None where it is another file."""
    try:
        document = json.loads(storage.read_bytes(path)) if storage.exists(path) else {}
    except ValueError:
        return None
    is_former = isinstance(document, dict) and {"split", "dataset", "train_step"} <= document.keys()
    return document if is_former or document == {} else None


def _picture(path: str) -> str:
    """Returns the name of the figure that --generated draws."""
    picture = os.path.splitext(path)[0] + ".png"
    if picture == path:
        raise UserError(f"--output={path}: expected the name of a .json file; the figure has the same name with .png")
    return picture


def _score(workdir: str, manifest: Manifest, path: str) -> None:
    """Scores the split."""
    split = _SPLIT.value
    if manifest.notes(split) <= manifest.performances(split):
        raise UserError(
            f"{manifest.directory}: no performance of the {split} split has a second note, there is nothing to score"
        )
    startup.import_tensorflow()
    from trainer.data.note_table import load_table
    from trainer.evaluation import baselines
    from trainer.evaluation.scorer import Scorer, by_composer, confidence_intervals, figures, sums
    from trainer.workdir.load_model import load_model

    trained = load_model(workdir)
    scorer = Scorer(trained.model)
    residuals = None
    if trained.model.config.model == "regression":
        residuals = scorer.fit_residuals(load_table(manifest, "validation"), activity="reading validation")
    table = load_table(manifest, split)
    notes = manifest.notes(split) - manifest.performances(split)
    logger.info(
        f"scoring the {split} split: {notes:,} notes, all but the first of each performance",
        extra={"figures": {"notes": notes}},
    )
    scores = scorer.score(table, residuals, activity=f"scoring {split}")
    # In the order of the table, which was built from the same records.
    composers = [performance.composer for performance in manifest.read_performances(split)]
    evaluation = {
        "split": split,
        **figures(sums(scores)),
        "confidence_95": confidence_intervals(scores, table.lengths),
        "by_composer": by_composer(scores, table.lengths, composers),
        "performances": manifest.performances(split),
        "train_step": trained.train_step,
        "sustain": manifest.options.get("sustain"),
        "dataset": manifest.sha256,
    }
    logger.info("counting notes: the baselines to compare with")
    evaluation["baselines"] = baselines.score_baselines(manifest, table)
    if residuals is not None:
        evaluation["residuals"] = {field: getattr(residuals, field)._asdict() for field in residuals._fields}
    storage.make_directories(os.path.dirname(path) or ".")
    write_json(path, evaluation)
    cli.print_result(_scores_in_words(evaluation, manifest.directory))


def _scores_in_words(evaluation: dict[str, Any], dataset: str) -> str:
    """A line of the figures and, where there are several composers, a line for each."""
    nats = evaluation["nats_per_note"]
    low, high = evaluation["confidence_95"]["total"]
    lines = [
        f"{evaluation['split']}: {nats['total']:.3f} nats/note ({low:.3f} to {high:.3f}) = pitch {nats['pitch']:.3f} "
        f"+ step {nats['step']:.3f} + duration {nats['duration']:.3f}; pitch right {evaluation['pitch_top1']:.1%}, "
        f"among the first five {evaluation['pitch_top5']:.1%}; "
        f"step within 30 ms {evaluation['step_within_30ms']:.1%}; {evaluation['notes']:,} notes of {dataset}"
    ]
    if evaluation["baselines"]:
        named = {"n-gram": evaluation["baselines"]["ngram"], "histogram": evaluation["baselines"]["histogram"]}
        lines.append(
            "by counting alone: "
            + "; ".join(
                f"{name} {own['total']:.3f} = {own['pitch']:.3f} + {own['step']:.3f} + {own['duration']:.3f}"
                for name, own in named.items()
            )
        )
    composers = evaluation["by_composer"]
    if len(composers) > 1:
        width = max(map(len, composers))
        lines += [
            f"  {name:{width}} {own['nats_per_note']['total']:7.3f} = {own['nats_per_note']['pitch']:.3f} "
            f"+ {own['nats_per_note']['step']:.3f} + {own['nats_per_note']['duration']:.3f}; "
            f"{own['notes']:,} notes of {own['performances']} performance{'s' * (own['performances'] > 1)}"
            for name, own in composers.items()
        ]
    return "\n".join(lines)


def _judge(workdir: str, manifest: Manifest, path: str) -> str:
    """Continues performances of the split, and compares what is played with real music; returns the figure's path."""
    from trainer.evaluation import generation_metrics

    picture = _picture(path)
    split = _SPLIT.value
    temperature = numbers_by_field(_TEMPERATURE.value, flag="temperature")
    top_p = numbers_by_field(_TOP_P.value, flag="top_p", highest=1)
    held_out, num_primers = _held_out(manifest, split)
    continued = held_out[:num_primers]
    startup.import_tensorflow()
    from trainer.data.note_table import track_performances
    from trainer.generation.sampler import NoteSampler
    from trainer.reporting import plots
    from trainer.workdir.load_model import load_model
    from trainer.workdir.transfer import upload_on_exit

    trained = load_model(workdir)
    pieces = [performance.piece for performance in held_out]
    primers = [performance.notes[: generation_metrics.PRIMER_NOTES] for performance in continued]
    real = [
        performance.notes[: generation_metrics.PRIMER_NOTES + generation_metrics.CONTINUATION_NOTES]
        for performance in continued
    ]
    played = NoteSampler(trained.model).sample(
        primers,
        num_notes=generation_metrics.CONTINUATION_NOTES,
        temperature=temperature,
        top_p=top_p,
        seed=_SEED.value,
        quiet=False,
    )
    train_notes = [performance.notes for performance in track_performances(manifest, "train")]
    logger.info("comparing with real music, and looking for copied runs")
    judgement = generation_metrics.judge(
        generation_metrics.Music(played.notes, pieces[:num_primers]),
        generation_metrics.Music(real, pieces[:num_primers]),
        generation_metrics.Music([performance.notes for performance in held_out], pieces),
        train_notes,
        first=generation_metrics.PRIMER_NOTES,
    )
    length = generation_metrics.CONTINUATION_NOTES
    title = f"{num_primers} continuations of {length} notes, beside real music of the {split} split"
    document = {
        "split": split,
        **judgement.figures,
        "counts": {
            music: {figure: bins.tolist() for figure, bins in counts.items()}
            for music, counts in judgement.counts.items()
        },
        "primers": [performance.path for performance in continued],
        "primer_notes": generation_metrics.PRIMER_NOTES,
        "num_notes": generation_metrics.CONTINUATION_NOTES,
        "held_out": {
            "performances": len(held_out),
            "pieces": len(set(pieces)),
            "notes": sum(len(performance.notes) for performance in held_out),
        },
        "temperature": temperature,
        "top_p": top_p,
        "seed": _SEED.value,
        "train_step": trained.train_step,
        "sustain": manifest.options.get("sustain"),
        "dataset": manifest.sha256,
    }
    logger.info(f"drawing {picture}")
    target, name = os.path.dirname(path) or ".", os.path.basename(picture)
    storage.make_directories(target)
    # A figure without its document would pass for another's file after a kill, so that the document comes first.
    storage.remove(picture)
    with upload_on_exit(target, last=[name]) as directory:
        write_json(os.path.join(directory, os.path.basename(path)), document)
        plots.judgement(judgement, os.path.join(directory, name), title=title)
    cli.print_result(_judgement_in_words(document, manifest.directory))
    return picture


def _held_out(manifest: Manifest, split: str) -> tuple[list[Performance], int]:
    """The performances to compare with, and how many of them, from the first, to continue."""
    from trainer.evaluation import generation_metrics

    performances = list(manifest.read_performances(split))
    long_enough = generation_metrics.long_enough(
        [len(performance.notes) for performance in performances], [performance.piece for performance in performances]
    )
    found, wanted = len(long_enough), _NUM_PRIMERS.value
    if wanted is not None and wanted > found:
        needed = generation_metrics.PRIMER_NOTES + generation_metrics.CONTINUATION_NOTES
        raise UserError(
            f"--num_primers={wanted}: only {found} performances of the {split} split have {needed} notes or more: "
            f"give --num_primers={found} or less"
        )
    return [performances[index] for index in long_enough], wanted or min(found, generation_metrics.MAX_DEFAULT_PRIMERS)


def _judgement_in_words(document: dict[str, Any], dataset: str) -> str:
    """The table of the figures."""
    held_out = document["held_out"]
    lines = [
        f"{document['split']}: {len(document['primers'])} continuations of {document['num_notes']} notes, and the real "
        f"ones in their place, each against other pieces among {held_out['performances']} performances of "
        f"{dataset}",
        "",
        f"{'':22}{'overlap':>10}{'':10}{'KL, nats':>12}",
        f"{'':22}{'generated':>10}{'real':>10}{'generated':>12}{'real':>10}",
    ]
    for figure, by_name in document["distributions"].items():
        generated, real = by_name["generated"], by_name["real"]
        lines.append(
            f"{figure.replace('_', ' '):22}{generated['overlap']:10.3f}{real['overlap']:10.3f}"
            f"{generated['kl']:12.3f}{real['kl']:10.3f}"
        )
    mean = document["mean_overlap"]
    lines += [
        f"{'mean':22}{mean['generated']:10.3f}{mean['real']:10.3f}",
        "",
        f"{'mean (maximum)':34}{'generated':>18}{'real':>18}",
    ]
    for figure, title, mean_form, max_form in (
        ("pitch_class_entropy", "pitch-class entropy, bits", ".2f", ".2f"),
        ("longest_loop", "longest loop, notes", ".1f", "d"),
        ("repeated_8grams", "repeated 8-grams of pitches", ".1%", ".1%"),
        ("copied_run", "longest run copied from train", ".1f", "d"),
    ):
        cells = [
            f"{document[figure][name]['mean']:{mean_form}} ({document[figure][name]['max']:{max_form}})"
            for name in ("generated", "real")
        ]
        lines.append(f"{title:34}{cells[0]:>18}{cells[1]:>18}")
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(main, usage=USAGE, required=(_WORKDIR,), examples=EXAMPLES)
