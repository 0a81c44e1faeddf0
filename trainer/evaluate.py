"""Scores a trained model on a split, or compares the music that it generates with real music: `sostenuto evaluate`."""

import logging
import os
from typing import TYPE_CHECKING, Any

from absl import flags

from sostenuto import cli, storage
from sostenuto.data.manifest import SPLITS, Manifest
from sostenuto.data.performance import Performance
from sostenuto.errors import FileError, UserError
from sostenuto.json_text import parse_json
from sostenuto.music.notes import Notes
from sostenuto.text import counted
from trainer.config_fields import MAX_NOTES, MAX_SAMPLES
from trainer.evaluation import generation_metrics
from trainer.evaluation.generation_metrics import PRIMER_NOTES, Music
from trainer.evaluation.lengths import MOST_NOTES, compare_lengths
from trainer.evaluation.note_statistics import measure_composers
from trainer.evaluation.summary import describe_comparison, describe_scores
from trainer.generation.composers import keep_known
from trainer.generation.sampling_flags import define_sampling_flags
from trainer.workdir.evaluation_formats import Evaluation, GenerationEvaluation, HeldOut, LengthComparison
from trainer.workdir.formats import RunInfo
from trainer.workdir.layout import (
    METRICS_NAME,
    check_dataset,
    load_config,
    load_dataset,
    load_export,
    load_run,
    resolved,
)
from trainer.workdir.outputs import check_output_directory, check_writable

if TYPE_CHECKING:
    from trainer.generation.sampler import NoteSampler

logger = logging.getLogger(__name__)

USAGE = """--workdir=DIR [--data=DIR --output=FILE] [--split=NAME] [--generated] [flags]

Scores how well a trained model predicts each note of a split. With --generated, the model continues performances of the
split instead, and the continuations are compared with real music.
"""
EXAMPLES = (
    "--workdir=run",
    "--workdir=run --split=validation --generated --temperature=0.9",
    "--workdir=run --data=other-dataset --output=other-scores.json",
    "--workdir=run/export --data=dataset --output=scores.json",
)

cli.start_group("input and output")
_WORKDIR = flags.DEFINE(cli.Path("DIR"), "workdir", None, "Workdir of the trained model, or its export.")
_DATA = flags.DEFINE(
    cli.Path("DIR"),
    "data",
    None,
    "Dataset that beam_preprocess wrote. Another one than the run's, and any for an export, needs --output. "
    "(default: the run's)",
)
_SPLIT = flags.DEFINE_enum("split", "test", SPLITS, "Split to score, or to continue and compare with.")
_OUTPUT = flags.DEFINE(
    cli.Path("FILE"),
    "output",
    None,
    "JSON file to write. (default: evaluation-SPLIT.json or generated-SPLIT.json in the workdir)",
)
cli.start_group("generated music")
_GENERATED = flags.DEFINE_bool("generated", False, "Compare generated continuations with real music.")
_NUM_PRIMERS = flags.DEFINE_integer(
    "num_primers",
    None,
    "Performances to continue. (default: all of the split that are long enough, at most 64)",
    lower_bound=1,
)
_PRIMER_NOTES = flags.DEFINE_integer(
    "primer_notes", PRIMER_NOTES, "Notes of each performance to continue; 0 starts from silence.", lower_bound=0
)
_NUM_NOTES = flags.DEFINE_integer(
    "num_notes",
    None,
    "Notes of each continuation. (default: {:,}, or {} if fewer than two pieces of the split are long enough)".format(
        *generation_metrics.CONTINUATION_NOTES
    ),
    lower_bound=1,
    upper_bound=MAX_NOTES,
)
_WHOLE_PIECES = flags.DEFINE_integer(
    "whole_pieces",
    0,
    "Pieces to generate from silence to their ends, to compare their lengths with those of the split; 0 disables.",
    lower_bound=0,
    upper_bound=MAX_SAMPLES,
)
_SAMPLING = define_sampling_flags()


def main() -> int:
    """Runs the evaluation that the flags ask for."""
    workdir = cli.require_flag(_WORKDIR)
    for flag in (_NUM_PRIMERS, _PRIMER_NOTES, _NUM_NOTES, _WHOLE_PIECES, *_SAMPLING):
        if flag.present and not _GENERATED.value:
            raise UserError(f"--{flag.name}={flag.value}: needs --generated. Pass both")
    if _SAMPLING.end_odds.present and not _WHOLE_PIECES.value:
        raise UserError(f"--end_odds={_SAMPLING.end_odds.value:g}: continuations do not end. Pass --whole_pieces too")
    if _GENERATED.value and _PRIMER_NOTES.value + (_NUM_NOTES.value or 2) < 2:
        raise UserError("--num_notes=1: with --primer_notes=0 no note has one before it to compare. Pass 2 or more")
    config = load_config(workdir)
    if config.positions == "last" and _GENERATED.value and not _PRIMER_NOTES.value:
        raise UserError("--primer_notes=0: a model with positions=last cannot start from silence. Pass 1 or more")
    if _WHOLE_PIECES.value and not config.has_ending:
        raise UserError(f"--whole_pieces={_WHOLE_PIECES.value}: this model predicts no end of a piece. Pass 0")
    is_export = load_export(workdir) is not None
    if is_export and not (_DATA.value and _OUTPUT.value):
        raise UserError(
            f"--workdir={workdir}: is an export, which has no dataset and stays as it is. Pass --data=DIR and "
            "--output=FILE"
        )
    run = load_run(workdir)
    manifest = Manifest.load(_DATA.value) if _DATA.value else load_dataset(workdir, run)
    path, is_of_run = _choose_output(workdir, manifest, run, is_export=is_export)
    record = _compare(workdir, manifest) if _GENERATED.value else _score(workdir, manifest)
    storage.make_directories(os.path.dirname(path) or ".")
    record.save(path)
    dataset = manifest.directory
    if isinstance(record, Evaluation):
        cli.print_result(describe_scores(record, dataset))
    else:
        cli.print_result(describe_comparison(record, dataset))
    written = [path, *(_update_reports(workdir, manifest) if is_of_run else [])]
    cli.print_result(f"wrote {', '.join(written)}")
    return 0


def _update_reports(workdir: str, manifest: Manifest) -> list[str]:
    """Writes the run's page and the export's model card again; returns their paths."""
    written = []
    if storage.exists(storage.join(workdir, METRICS_NAME)):
        from trainer.reporting import page

        logger.info("writing the report's page")
        written.append(page.write(workdir))
    if not _GENERATED.value:
        from trainer.reporting import model_card

        if card := model_card.refresh(workdir, manifest):
            written.append(card)
    return written


def _choose_output(workdir: str, manifest: Manifest, run: RunInfo, *, is_export: bool) -> tuple[str, bool]:
    """Returns the file to write, after checks that it may be written, and whether the run's page reads it."""
    own = (GenerationEvaluation if _GENERATED.value else Evaluation).path(workdir, _SPLIT.value)
    path = _OUTPUT.value or own
    directory = os.path.dirname(path) or "."
    is_of_run = resolved(path) == resolved(own) and not is_export
    if is_of_run:
        check_dataset(manifest, run, workdir, remedy="Pass --output=FILE, outside of the workdir")
    else:
        check_output_directory(directory)
        if storage.is_directory(path):
            raise UserError(f"--output={path}: is a directory. Pass the name of a file")
        if storage.exists(path) and not _is_evaluation(path):
            raise UserError(f"--output={path}: {path} exists, and is no evaluation. Move it, or pass another name")
    check_writable(directory)
    return path, is_of_run


def _is_evaluation(path: str) -> bool:
    """Tests whether an earlier call wrote a file, or it is an empty object."""
    try:
        document = parse_json(storage.read_bytes(path), path)
    except FileError:
        raise
    except UserError:
        return False
    return document == {} or (isinstance(document, dict) and {"split", "dataset", "train_step"} <= document.keys())


def _score(workdir: str, manifest: Manifest) -> Evaluation:
    """Scores the split."""
    split = _SPLIT.value
    notes = manifest.notes(split) - manifest.performances(split)
    if notes <= 0:
        raise UserError(
            f"{manifest.directory}: no performance of the {split} split has a second note, so there is nothing to "
            "score. Pass another --split"
        )
    from trainer.data.note_table import load_table
    from trainer.distribution.devices import exact_float32
    from trainer.distribution.faults import translate_gpu_errors
    from trainer.evaluation import statistics
    from trainer.evaluation.baselines import score_baselines
    from trainer.evaluation.scorer import Scorer
    from trainer.workdir.load_model import load_model

    with translate_gpu_errors(), exact_float32():
        trained = load_model(workdir)
        model, scorer, residuals, hidden = trained.model, Scorer(trained.model), None, None
        if model.config.model == "regression":
            residuals = scorer.fit_residuals(load_table(manifest, "validation"), activity="reading validation")
        table = load_table(manifest, split)
        logger.info(
            f"scoring the {split} split: {counted(notes, 'note')}, all but the first of each performance",
            extra={"figures": {"notes": notes}},
        )
        scores = scorer.score(table, residuals, activity=f"scoring {split}")
        if table.composer_ids(model.composers).any():
            hidden = scorer.score(table, knows_composers=False, activity=f"scoring {split} without composers")
    # The table has the order of the records.
    performances = [(performance.composer, performance.piece) for performance in manifest.read_performances(split)]
    composers, pieces = zip(*performances, strict=True)
    logger.info("scoring the baselines: n-gram and histogram")
    return Evaluation(
        split=split,
        **vars(statistics.compute_metrics(statistics.sum_scores(scores))),
        confidence_95=statistics.confidence_intervals(scores, table.lengths),
        by_composer=statistics.score_composers(scores, table.lengths, composers),
        unshared=statistics.score_unshared(scores, table.lengths, pieces, manifest.source["straddling_pieces"]),
        ending=statistics.score_ending(scores, table.lengths) if model.config.has_ending else None,
        composer_gain=hidden
        and statistics.score_composer_gain(scores, hidden, table.lengths, composers, model.composers),
        performances=manifest.performances(split),
        train_step=trained.train_step,
        sustain=manifest.options.get("sustain"),
        dataset=manifest.sha256,
        baselines=score_baselines(manifest, table),
        residuals=residuals and {"step": residuals.step, "duration": residuals.duration},
    )


def _compare(workdir: str, manifest: Manifest) -> GenerationEvaluation:
    """Continues performances of the split, and compares the continuations with real music."""
    split, first = _SPLIT.value, _PRIMER_NOTES.value
    sampling = _SAMPLING.parse()
    end_odds = sampling.pop("end_odds")
    held_out, num_primers, num_notes = _select_held_out(manifest, split, first)
    continued = held_out[:num_primers]
    from trainer.data.note_table import track_performances
    from trainer.distribution.faults import translate_gpu_errors
    from trainer.generation.sampler import NoteSampler
    from trainer.workdir.load_model import load_model

    primers = [performance.notes[:first] for performance in continued]
    with translate_gpu_errors("Pass a smaller --num_primers"):
        trained = load_model(workdir)
        composers = keep_known((performance.composer for performance in continued), trained.model.composers)
        sampler = NoteSampler(trained)
        generated = sampler.sample(
            primers, num_notes=num_notes, **sampling, end_odds=0.0, composers=composers, quiet=False
        )
        whole = _play_whole_pieces(sampler, manifest, sampling, end_odds)
    train = [performance.notes for performance in track_performances(manifest, "train")]
    logger.info("comparing with real music, and searching for copied runs")
    pieces = [performance.piece for performance in held_out]
    real = [performance.notes[: first + num_notes] for performance in continued]
    metrics = generation_metrics.compare_generated(
        Music(generated.notes, pieces[:num_primers]),
        Music(real, pieces[:num_primers]),
        Music([performance.notes for performance in held_out], pieces),
        train,
        first=first,
        quiet=False,
    )
    return GenerationEvaluation(
        split=split,
        **vars(metrics),
        primers=[performance.path for performance in continued],
        primer_notes=first,
        num_notes=num_notes,
        lengths=whole,
        by_composer=measure_composers(
            [notes[first:] for notes in generated.notes], [notes[first:] for notes in real], composers
        ),
        held_out=HeldOut(len(held_out), len(set(pieces)), sum(len(performance.notes) for performance in held_out)),
        **sampling,
        train_step=trained.train_step,
        sustain=manifest.options.get("sustain"),
        dataset=manifest.sha256,
    )


def _play_whole_pieces(
    sampler: "NoteSampler", manifest: Manifest, sampling: dict[str, Any], end_odds: float
) -> LengthComparison | None:
    """Plays pieces from silence to their ends, with the composers of the split; None without --whole_pieces."""
    from trainer.data.note_table import load_table

    if not (pieces := _WHOLE_PIECES.value):
        return None
    table = load_table(manifest, _SPLIT.value)
    names = keep_known(table.composers, sampler.composers)
    played = sampler.sample(
        [Notes.empty()] * pieces, num_notes=MOST_NOTES, **sampling, end_odds=end_odds,
        composers=[names[index * len(names) // pieces] for index in range(pieces)], quiet=False,
    )  # fmt: skip
    lengths = list(map(len, played.notes))
    return compare_lengths(lengths, table.lengths.tolist(), ended=sum(played.has_ended), end_odds=end_odds)


def _select_held_out(manifest: Manifest, split: str, primer_notes: int) -> tuple[list[Performance], int, int]:
    """Returns the performances to compare with, how many of them to continue, from the first, and by how many notes."""
    performances = list(manifest.read_performances(split))
    lengths = [len(performance.notes) for performance in performances]
    pieces = [performance.piece for performance in performances]
    num_notes = _NUM_NOTES.value or generation_metrics.choose_num_notes(lengths, pieces, primer_notes)
    needed = primer_notes + num_notes
    selected = generation_metrics.select_performances(lengths, pieces, needed)
    available, requested = len(selected), _NUM_PRIMERS.value
    if requested is not None and requested > available:
        raise UserError(
            f"--num_primers={requested}: the {split} split has only {counted(available, 'performance')} of "
            f"{needed} notes or more. Pass --num_primers={available} or less, or a smaller --num_notes"
        )
    num_primers = requested or min(available, generation_metrics.MAX_DEFAULT_PRIMERS)
    return [performances[index] for index in selected], num_primers, num_notes


if __name__ == "__main__":
    cli.run(main, usage=USAGE, required=(_WORKDIR,), examples=EXAMPLES)
