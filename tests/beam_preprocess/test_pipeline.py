import pickle

from beam_preprocess.parser import Parser
from beam_preprocess.pipeline import LocalCallback, WriteShards
from beam_preprocess.shard_writer import ShardWriter
from sostenuto import storage
from tests.processes import run_python


def test_a_callback_is_called_only_in_the_process_that_created_it():
    calls = []
    callback = LocalCallback(lambda: calls.append(1))
    pickled = pickle.dumps(callback)
    pickle.loads(pickled)()
    assert calls == [1]
    process = run_python("-c", f"import pickle; print(pickle.loads({pickled!r})())")
    assert (process.returncode, process.stdout, calls) == (0, "None\n", [1])


def test_a_remote_worker_names_the_project_that_pays(monkeypatch):
    monkeypatch.setenv("SOSTENUTO_GCS_USER_PROJECT", "mine")
    writer = ShardWriter(plan_file="", archive=None, directory="", parser=Parser("ignore", seconds=None))
    pickled = pickle.dumps(WriteShards(writer, 1, LocalCallback(lambda: None)))
    monkeypatch.delenv("SOSTENUTO_GCS_USER_PROJECT")
    step = pickle.loads(pickled)
    step.setup()
    assert storage.user_project() == "mine"
