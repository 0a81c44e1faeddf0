"""The warnings of report.html, and its missing parts with the commands that add them."""

from trainer.evaluation.generation_metrics import COMPARED_NOTES, CONTINUATION_NOTES, PRIMER_NOTES
from trainer.generation.samples import SAMPLES_NAME
from trainer.reporting import music_diagnostics, score_diagnostics
from trainer.reporting.load import RunReport
from trainer.reporting.score_diagnostics import Diagnostic
from trainer.workdir.evaluation_formats import GenerationEvaluation, SplitRecord


def diagnose(report: RunReport) -> list[Diagnostic]:
    """Returns all diagnostics of a run, warnings first."""
    result = score_diagnostics.diagnose_training(report)
    result += [_diagnose_other_dataset(report, record) for record in report.other_datasets]
    for evaluation in report.evaluations.values():
        result += score_diagnostics.diagnose_evaluation(evaluation, report)
        result += _diagnose_stale_record(report, evaluation, "The evaluation")
        for name, other in report.comparisons_on(evaluation.split):
            result += score_diagnostics.diagnose_comparison(name, other)
    for generated in report.generated.values():
        result += music_diagnostics.diagnose_generated(generated, report)
        result += _diagnose_stale_record(report, generated, "The comparison with real music")
    if report.samples:
        if not report.generated:
            result += music_diagnostics.diagnose_samples(report)
        advice = f"Remove {SAMPLES_NAME}/ from the workdir, then: {report.command('report')}"
        result += _diagnose_stale(report, report.samples.index.train_step, "The music below", advice)
    if not report.evaluations:
        result.append(_not_evaluated(report))
    if not report.generated:
        result.append(_not_compared(report))
    return result


def checked_for(report: RunReport) -> list[str]:
    """Returns the problems that this workdir's files can show."""
    problems = {
        "overfitting": len(report.scores) > 1,
        "copied music": report.generated,
        "repetition": report.generated,
        "a rhythm that has collapsed": report.generated or report.samples,
        "an n-gram that does as well": any(map(score_diagnostics.compare_with_ngram, report.evaluations.values())),
    }
    return [problem for problem, can_show in problems.items() if can_show]


def _not_evaluated(report: RunReport) -> Diagnostic:
    if report.scorable_split is None:
        detail = "The dataset has no notes to score it on."
        advice = (
            "Preprocess the corpus again with shares for validation and test, such as --split_fractions=0.8,0.1,0.1."
        )
    else:
        detail = "No split has been scored note by note."
        advice = f"Score one: {report.command('evaluate', f'--split={report.scorable_split}')}"
    return Diagnostic("Not evaluated yet", detail, advice, is_warning=False)


def _not_compared(report: RunReport) -> Diagnostic:
    if report.continuable_split is None:
        title, advice = "The music cannot be compared with real music", ""
        detail = (
            f"That takes two pieces of {COMPARED_NOTES} notes in the test or the validation split, {PRIMER_NOTES} to "
            f"start from and {CONTINUATION_NOTES[-1]} to compare with. The pieces of this dataset are shorter."
        )
    else:
        title = "The music is not compared with real music yet"
        detail = "Distributions, repetition and copies were not measured."
        command = report.command("evaluate", f"--split={report.continuable_split}", "--generated")
        advice = f"Measure them: {command}"
    return Diagnostic(title, detail, advice, is_warning=False)


def _evaluation_command(report: RunReport, record: SplitRecord) -> str:
    generated = ["--generated"] if isinstance(record, GenerationEvaluation) else []
    return report.command("evaluate", f"--split={record.split}", *generated)


def _diagnose_other_dataset(report: RunReport, record: SplitRecord) -> Diagnostic:
    return Diagnostic(
        f"{record.PREFIX}-{record.split}.json is of another dataset",
        f"It is left out here. Its dataset has the fingerprint {record.dataset[:12]}…, the run's "
        f"{str(report.run.dataset)[:12]}….",
        f"Evaluate on the run's dataset: {_evaluation_command(report, record)}",
    )


def _diagnose_stale_record(report: RunReport, record: SplitRecord, subject: str) -> list[Diagnostic]:
    advice = f"Evaluate again: {_evaluation_command(report, record)}"
    return _diagnose_stale(report, record.train_step, f"{subject} ({record.split} split)", advice)


def _diagnose_stale(report: RunReport, train_step: int, subject: str, advice: str) -> list[Diagnostic]:
    """Returns a diagnostic if something was made with other weights than the current best ones."""
    best = report.best_train_step
    if best is None or train_step == best:
        return []
    detail = f"It was made with the weights of train_step {train_step:,}; the best are now those of {best:,}."
    return [Diagnostic(f"{subject} is of other weights", detail, advice)]
