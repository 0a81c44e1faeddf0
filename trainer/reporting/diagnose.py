"""The warnings of report.html, and its missing parts with the commands that add them."""

from trainer.evaluation.generation_metrics import COMPARED_NOTES, CONTINUATION_NOTES, PRIMER_NOTES
from trainer.generation.samples import SAMPLES_NAME
from trainer.reporting import diagnostics, music_diagnostics
from trainer.reporting.diagnostics import Diagnostic
from trainer.reporting.load import RunReport
from trainer.reporting.scores import compare_with_ngram
from trainer.workdir.formats import Evaluation, GenerationEvaluation


def diagnose(report: RunReport) -> list[Diagnostic]:
    """Returns all diagnostics of a run, warnings first."""
    result = [*diagnostics.diagnose_training(report), *_diagnose_other_datasets(report)]
    if not report.evaluations:
        result.append(not_evaluated(report))
    for evaluation in report.evaluations.values():
        result += diagnostics.diagnose_evaluation(evaluation, report)
        result += _diagnose_stale_scores(report, evaluation, "The evaluation")
    if not report.generated:
        result.append(not_compared(report))
    for generated in report.generated.values():
        result += music_diagnostics.diagnose_generated(generated, report)
        result += _diagnose_stale_scores(report, generated, "The comparison with real music", "--generated")
    if report.samples:
        if not report.generated:
            result += music_diagnostics.diagnose_samples(report)
        advice = f"Remove {SAMPLES_NAME}/ from the workdir, then: {report.command('report')}"
        result += _diagnose_stale(report, report.samples.index.train_step, "The music below", advice)
    return sorted(result, key=lambda diagnostic: not diagnostic.is_warning)


def checked_for(report: RunReport) -> list[str]:
    """Returns the problems that this workdir's files can show."""
    has_ngram = any(compare_with_ngram(evaluation) for evaluation in report.evaluations.values())
    return [
        *(["overfitting"] if len(report.scores) > 1 else []),
        *(["copied music", "repetition"] if report.generated else []),
        *(["a rhythm that has collapsed"] if report.generated or report.samples else []),
        *(["an n-gram that does as well"] if has_ngram else []),
    ]


def not_evaluated(report: RunReport) -> Diagnostic:
    """Returns the diagnostic of a run without an evaluation."""
    title = "Not evaluated yet"
    if report.scorable_split is None:
        return Diagnostic(
            title,
            "The dataset has no notes to score it on.",
            "Preprocess the corpus again with shares for validation and test, such as --split_fractions=0.8,0.1,0.1.",
            is_warning=False,
        )
    command = report.command("evaluate", f"--split={report.scorable_split}")
    return Diagnostic(title, "No split has been scored note by note.", f"Score one: {command}", is_warning=False)


def not_compared(report: RunReport) -> Diagnostic:
    """Returns the diagnostic of a run whose music was not compared with real music."""
    if report.continuable_split is None:
        return Diagnostic(
            "The music cannot be compared with real music",
            f"That takes two pieces of {COMPARED_NOTES} notes in the test or the validation split, {PRIMER_NOTES} to "
            f"start from and {CONTINUATION_NOTES} to compare with. The pieces of this dataset are shorter.",
            is_warning=False,
        )
    command = report.command("evaluate", f"--split={report.continuable_split}", "--generated")
    return Diagnostic(
        "The music is not compared with real music yet",
        "Distributions, repetition and copies were not measured.",
        f"Measure them: {command}",
        is_warning=False,
    )


def _diagnose_other_datasets(report: RunReport) -> list[Diagnostic]:
    result = []
    for record in report.other_datasets:
        flags = [f"--split={record.split}", *(["--generated"] if isinstance(record, GenerationEvaluation) else [])]
        result.append(
            Diagnostic(
                f"{record.PREFIX}-{record.split}.json is of another dataset",
                f"It is left out here. Its dataset has the fingerprint {record.dataset[:12]}…, the run's "
                f"{str(report.run.dataset)[:12]}….",
                f"Evaluate on the run's dataset: {report.command('evaluate', *flags)}",
            )
        )
    return result


def _diagnose_stale_scores(
    report: RunReport, evaluation: Evaluation | GenerationEvaluation, subject: str, *flags: str
) -> list[Diagnostic]:
    split = evaluation.split
    advice = f"Evaluate again: {report.command('evaluate', f'--split={split}', *flags)}"
    return _diagnose_stale(report, evaluation.train_step, f"{subject} ({split} split)", advice)


def _diagnose_stale(report: RunReport, train_step: int, subject: str, advice: str) -> list[Diagnostic]:
    """Returns a diagnostic if something was made with other weights than the current best ones."""
    best = report.best_train_step
    if best is None or train_step == best:
        return []
    detail = f"It was made with the weights of train_step {train_step:,}; the best are now those of {best:,}."
    return [Diagnostic(f"{subject} is of other weights", detail, advice)]
