import pickle

from beam_preprocess.pipeline import LocalCallback
from tests.processes import run_python


def test_a_callback_is_called_only_in_the_process_that_created_it():
    calls = []
    callback = LocalCallback(lambda: calls.append(1))
    pickled = pickle.dumps(callback)
    pickle.loads(pickled)()
    assert calls == [1]
    process = run_python("-c", f"import pickle; print(pickle.loads({pickled!r})())")
    assert (process.returncode, process.stdout, calls) == (0, "None\n", [1])
