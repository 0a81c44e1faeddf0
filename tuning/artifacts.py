"""Result files of a study, which nothing reads back: trials.json, report.html and TensorBoard's HParams."""

import dataclasses
import io
import json
import os
import time
from collections.abc import Sequence
from typing import Any

from sostenuto import storage
from sostenuto.storage.lease import Lease, Lock
from tuning.space import Parameter, notes_per_train_step
from tuning.summary import BEST_CONFIG_NAME, StudySummary
from tuning.trial import Trial, TrialStatus

TRIALS_NAME = "trials.json"
REPORT_NAME = "report.html"
SUMMARIES_NAME = "summaries"

_TRIAL_KEYS = (
    "trial", "state", "parent", "directory", "values", "changed", "share", "score", "scores", "train_step", "seconds",
    "attempts", "worker", "reason",
)  # fmt: skip
_EVENTS_NAME = "events.out.tfevents.study"  # TensorBoard reads files with tfevents in their names


def write(summary: StudySummary, lock: Lock | Lease) -> None:
    """Writes the results of a study, each file atomically; raises a UserError if a file cannot be written."""
    # The page needs packages of the extra "tune"; a command without them starts, and names what is missing.
    from tuning.report.page import render

    directory = summary.workdir
    trials = json.dumps(trials_document(summary), indent=2) + "\n"
    lock.write_bytes(os.path.join(directory, TRIALS_NAME), trials.encode())
    best_config = os.path.join(directory, BEST_CONFIG_NAME)
    if summary.best is not None:
        config = summary.space.full_config(summary.best.values)
        lock.write_bytes(best_config, config.to_json().encode())
    else:  # The best of an unfinished search may be none of the finished one.
        lock.remove(best_config)
    _write_hparams(summary, os.path.join(directory, SUMMARIES_NAME), lock)
    lock.write_bytes(os.path.join(directory, REPORT_NAME), render(summary).encode())


def remove(directory: str, lock: Lock | Lease) -> None:
    """Deletes the files that `write` wrote into a study's workdir."""
    for name in (TRIALS_NAME, BEST_CONFIG_NAME, REPORT_NAME, SUMMARIES_NAME):
        lock.remove(os.path.join(directory, name))


def trials_document(summary: StudySummary) -> dict[str, Any]:
    """Returns the content of trials.json, as docs/tuning.md describes it."""
    config, best = summary.config, summary.best
    return {
        "objective": {"name": "val_nats", "unit": "nats/note", "direction": "min", "split": "validation"},
        **{name: getattr(config, name) for name in ("tuner", "seed", "max_trials", "train_steps")},
        "notes_per_trial": config.train_steps * notes_per_train_step(summary.space.start),
        "dataset": config.data,
        "space": summary.space.to_json(),
        "start": dataclasses.asdict(summary.space.base_config),
        "best": best.id if best else None,
        "trials": [_trial_object(trial, summary) for trial in summary.trials],
    }


def _trial_object(trial: Trial, summary: StudySummary) -> dict[str, Any]:
    base, record = summary.space.base_config, trial.to_json()
    config = dataclasses.asdict(summary.space.full_config(trial.values))
    changed = {name: value for name, value in config.items() if value != getattr(base, name)}
    record |= {"trial": trial.id, "changed": changed, "scores": list(record["scores"]), "attempts": trial.attempt}
    return {key: record[key] for key in _TRIAL_KEYS}


def _write_hparams(summary: StudySummary, directory: str, lock: Lock | Lease) -> None:
    """Writes TensorBoard's HParams: the space, and a run for each ended trial that has none yet.

    TensorFlow's own writers would start TensorFlow with all its devices, and would append to files in place.
    """
    from tensorboard.plugins.hparams import summary_v2

    now = time.time()
    path = os.path.join(directory, _EVENTS_NAME)
    if not storage.exists(path):
        experiment = summary_v2.hparams_config_pb(
            hparams=[_domain(parameter) for parameter in summary.space.parameters],
            metrics=[summary_v2.Metric("score", display_name="score, nats/note")],
        )
        lock.write_bytes(path, _events([(0, experiment)], now))
    for trial in summary.trials:
        path = os.path.join(directory, trial.id, _EVENTS_NAME)
        if not trial.is_open and not storage.exists(path):
            lock.write_bytes(path, _events(_trial_messages(trial, summary, now), now))


def _trial_messages(trial: Trial, summary: StudySummary, now: float) -> list[tuple[int, Any]]:
    """Returns the (train_step, message) of an ended trial; TensorBoard's function for its end imports TensorFlow."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2, summary_v2
    from tensorboard.plugins.scalar.summary_v2 import scalar_pb

    values = {parameter.field: summary.value(trial, parameter) for parameter in summary.space.parameters}
    messages = [(0, summary_v2.hparams_pb(values, trial_id=trial.id, start_time_secs=now - trial.seconds))]
    messages += [
        (score.train_step, scalar_pb("val_nats", score.score)) for score in trial.scores if score.score is not None
    ]
    if trial.score is not None:
        messages.append((trial.train_step, scalar_pb("score", trial.score)))
    status = api_pb2.STATUS_FAILURE if trial.status == TrialStatus.FAILED else api_pb2.STATUS_SUCCESS
    info = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=now)
    data = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(session_end_info=info))
    value = Summary.Value(tag=metadata.SESSION_END_INFO_TAG, metadata=data, tensor=metadata.NULL_TENSOR)
    return [*messages, (trial.train_step, Summary(value=[value]))]


def _domain(parameter: Parameter) -> Any:
    from tensorboard.plugins.hparams import summary_v2

    domain: Any
    if parameter.kind == "choice":
        domain = summary_v2.Discrete(list(parameter.values))
    elif parameter.kind == "int":
        domain = summary_v2.IntInterval(*map(int, parameter.bounds))
    else:
        domain = summary_v2.RealInterval(*map(float, parameter.bounds))
    return summary_v2.HParam(parameter.field, domain, description=f"{parameter.unit}: {parameter.why}")


def _events(messages: Sequence[tuple[int, Any]], wall_time: float) -> bytes:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    file = io.BytesIO()
    writer = RecordWriter(file)
    writer.write(Event(wall_time=wall_time, file_version="brain.Event:2").SerializeToString())
    for train_step, message in messages:
        writer.write(Event(wall_time=wall_time, step=train_step, summary=message).SerializeToString())
    return file.getvalue()
