import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sostenuto.errors import UserError
from tests.processes import run_python
from trainer.distribution.cluster import Cluster, resolve

# What Kubernetes sets in the second pod of an Indexed Job.
SECOND_POD = {"JOB_COMPLETION_INDEX": "1"}

PODS = "train-0.train:2222,train-1.train:2222"


def tf_config(cluster: object, task: object) -> dict[str, str]:
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})}


def slurm(
    rank: int, nodes: str, tasks_per_node: str, *, tasks: int, place: tuple[int, int], job: int = 4711
) -> dict[str, str]:
    """What srun sets in the task of this rank, which runs as the `place[1]`-th task of the `place[0]`-th node."""
    return {
        "SLURM_JOB_ID": str(job),
        "SLURM_JOB_NODELIST": nodes,
        "SLURM_NTASKS": str(tasks),
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": str(tasks),
        "SLURM_STEP_NODELIST": nodes,
        "SLURM_STEP_TASKS_PER_NODE": tasks_per_node,
        "SLURM_PROCID": str(rank),
        "SLURM_NODEID": str(place[0]),
        "SLURM_LOCALID": str(place[1]),
    }


TWO_NODES = slurm(1, "n[1-2]", "1(x2)", tasks=2, place=(1, 0))

WORKERS = {"worker": ["a:1", "b:2"]}
SECOND = {"type": "worker", "index": 1}


def test_a_cluster_says_who_is_chief_and_how_many_there_are():
    chief, other = (Cluster(("a:1", "b:2", "c:3"), index) for index in (0, 2))
    assert (chief.is_chief, chief.size) == (True, 3)
    assert (other.is_chief, other.size) == (False, 3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        other.index = 0  # type: ignore[misc]


def test_without_any_source_it_is_one_host():
    assert resolve(None, None, {}) is None


# An Indexed Job may be a search: many runs of one host each.
@pytest.mark.parametrize("environment", [SECOND_POD, {"SLURM_PROCID": "1"}])
def test_an_index_alone_makes_no_cluster(environment):
    assert resolve(None, None, environment) is None


def test_flags_name_the_workers_and_the_place():
    assert resolve("a:1,b:2,[::1]:3", 2, {}) == Cluster(("a:1", "b:2", "[::1]:3"), 2)


def test_all_pods_of_an_indexed_job_take_the_same_command():
    found = [resolve(PODS, None, {"JOB_COMPLETION_INDEX": str(index)}) for index in range(2)]
    assert found == [Cluster(("train-0.train:2222", "train-1.train:2222"), index) for index in range(2)]


@pytest.mark.parametrize(
    ("index", "environment", "expected"),
    [
        (None, {"SLURM_PROCID": "1"}, 1),
        (None, {"SLURM_PROCID": "1", "JOB_COMPLETION_INDEX": "2"}, 2),
        (0, {"SLURM_PROCID": "1", "JOB_COMPLETION_INDEX": "2"}, 0),
    ],
)
def test_the_place_is_the_flag_then_kubernetes_then_slurm(index, environment, expected):
    cluster = resolve("a:1,b:2,c:3", index, environment)
    assert cluster is not None
    assert cluster.index == expected


@pytest.mark.parametrize("index", [None, 0])
def test_a_single_worker_by_flag_is_one_host(index):
    assert resolve("a:1", index, {}) is None
    # Nor does any other source then count.
    assert resolve("a:1", 0, {**tf_config(WORKERS, SECOND), **TWO_NODES}) is None


def test_tf_config_names_the_workers_and_the_place():
    assert resolve(None, None, tf_config(WORKERS, SECOND)) == Cluster(("a:1", "b:2"), 1)


@pytest.mark.parametrize(
    ("task", "index"),
    [
        ({"type": "chief", "index": 0}, 0),
        ({"type": "worker", "index": 0}, 1),
        ({"type": "worker", "index": 1}, 2),
        ({"type": "worker", "index": "1"}, 2),
    ],
)
def test_the_chief_of_tf_config_comes_before_its_workers(task, index):
    environment = tf_config({**WORKERS, "chief": ["c:3"]}, task)
    assert resolve(None, None, environment) == Cluster(("c:3", "a:1", "b:2"), index)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "{}",
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"chief": ["a:1"]}, "task": {"type": "chief", "index": 0}}',
    ],
)
def test_tf_config_of_one_worker_is_one_host(text):
    # Within a job step too: so that a user can have each of its tasks train alone.
    assert resolve(None, None, {"TF_CONFIG": text, **TWO_NODES}) is None


def test_a_job_step_on_several_nodes():
    assert resolve(None, None, TWO_NODES) == Cluster(("n1:24220", "n2:24220"), 1)


@pytest.mark.parametrize(
    ("nodes", "hosts"),
    [
        ("n1,n2", ["n1", "n2"]),
        ("n[08-10],m5", ["n08", "n09", "n10", "m5"]),
        ("n[1-2,7,09-10]", ["n1", "n2", "n7", "n09", "n10"]),
        ("n[9-11]", ["n9", "n10", "n11"]),
        ("rack[1-2]n[3-4]-ib.cluster", [f"rack{rack}n{node}-ib.cluster" for rack in (1, 2) for node in (3, 4)]),
    ],
)
def test_node_lists_keep_the_order_of_slurm(nodes, hosts):
    last = len(hosts) - 1
    environment = slurm(last, nodes, f"1(x{len(hosts)})", tasks=len(hosts), place=(last, 0))
    assert resolve(None, None, environment) == Cluster(tuple(f"{host}:24220" for host in hosts), last)


def test_tasks_of_one_node_have_ports_of_their_own():
    workers = ("n1:24220", "n1:24221", "n2:24220", "n2:24221", "n3:24220")
    places = [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]
    found = [
        resolve(None, None, slurm(rank, "n[1-3]", "2(x2),1", tasks=5, place=place)) for rank, place in enumerate(places)
    ]
    assert found == [Cluster(workers, rank) for rank in range(5)]


@given(st.integers(1, 2**26), st.integers(1, 999))
def test_jobs_of_near_numbers_share_a_node_without_sharing_a_port(job, later):
    """With up to twenty tasks of each on the node; below the ports of outgoing connections."""
    ports = []
    for number in (job, job + later):
        cluster = resolve(None, None, slurm(0, "n1", "20", tasks=20, place=(0, 0), job=number))
        assert cluster is not None
        ports += [int(address.removeprefix("n1:")) for address in cluster.workers]
    assert len(set(ports)) == 40
    assert 1024 <= min(ports) <= max(ports) < 32768


def test_the_batch_script_of_an_allocation_is_one_host():
    allocation = {
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURM_NTASKS": "2",
        "SLURM_TASKS_PER_NODE": "1(x2)",
        "SLURM_PROCID": "0",
        "SLURM_NODEID": "0",
        "SLURM_LOCALID": "0",
    }
    assert resolve(None, None, allocation) is None


def test_a_job_step_of_one_task_is_one_host():
    assert resolve(None, None, slurm(0, "n1", "1", tasks=1, place=(0, 0))) is None
    # Its address then does not matter.
    assert resolve(None, None, {"SLURM_STEP_NUM_TASKS": "1"}) is None


def test_flags_win_over_tf_config_and_that_over_slurm():
    both = {**tf_config(WORKERS, SECOND), **TWO_NODES}
    assert resolve("x:1,y:2", 0, both) == Cluster(("x:1", "y:2"), 0)
    assert resolve(None, None, both) == Cluster(("a:1", "b:2"), 1)
    # What does not count may be as wrong as it likes.
    assert resolve("x:1,y:2", 0, {"TF_CONFIG": "{"}) == Cluster(("x:1", "y:2"), 0)


addresses = st.builds(
    "{}:{}".format, st.from_regex(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", fullmatch=True), st.integers(1, 65535)
)


@given(st.lists(addresses, min_size=2, max_size=8, unique=True), st.data())
def test_every_source_gives_the_same_cluster(workers, data):
    index = data.draw(st.integers(0, len(workers) - 1))
    cluster = Cluster(tuple(workers), index)
    assert resolve(None, None, tf_config({"worker": workers}, {"type": "worker", "index": index})) == cluster
    assert resolve(",".join(workers), index, {}) == cluster
    assert resolve(",".join(workers), None, {"JOB_COMPLETION_INDEX": str(index)}) == cluster


def test_tensorflow_reads_the_same_cluster(monkeypatch):
    import tensorflow as tf

    environment = tf_config({**WORKERS, "chief": ["c:3"]}, SECOND)
    cluster = resolve(None, None, environment)
    assert cluster is not None
    task = {"type": "worker", "index": cluster.index}
    monkeypatch.setenv("TF_CONFIG", tf_config({"worker": cluster.workers}, task)["TF_CONFIG"])
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    assert resolver.cluster_spec().as_dict() == {"worker": ["c:3", "a:1", "b:2"]}
    assert (resolver.task_type, resolver.task_id) == ("worker", 2)


def test_it_works_without_tensorflow():
    program = """
import sys
sys.modules["tensorflow"] = None
from trainer.distribution.cluster import resolve
print(resolve("a:1,b:2", 1, {}))
"""
    process = run_python("-c", program)
    assert process.returncode == 0, process.stderr
    assert process.stdout == "Cluster(workers=('a:1', 'b:2'), index=1)\n"


def refusal(workers, index, environment) -> str:
    """The message of what must be refused: one line of a bearable length."""
    with pytest.raises(UserError) as error:
        resolve(workers, index, environment)
    message = str(error.value)
    assert message.isprintable()
    assert len(message) < 400
    # What is expected of the user must be said in each.
    assert "expected" in message
    return message


def test_an_index_by_flag_needs_the_workers():
    message = refusal(None, 1, tf_config(WORKERS, SECOND))
    assert message.startswith("--worker_index=1 without --workers: expected both or neither")


def test_workers_by_flag_need_a_place():
    message = refusal("a:1,b:2", None, {})
    assert message.startswith("--workers='a:1,b:2': the index of this process is missing")
    assert "--worker_index=N" in message


@pytest.mark.parametrize(
    ("workers", "index", "environment", "start"),
    [
        ("a:1,b:2", 2, {}, "--worker_index=2: --workers has 2 workers, expected 0 to 1"),
        ("a:1,b:2", -1, {}, "--worker_index=-1: --workers has 2 workers, expected 0 to 1"),
        # A Job of more completions than there are workers: else the pods that are too many would train alone.
        ("a:1", None, SECOND_POD, "JOB_COMPLETION_INDEX=1: --workers has one worker, expected 0"),
        ("a:1,b:2", None, {"JOB_COMPLETION_INDEX": "2"}, "JOB_COMPLETION_INDEX=2: --workers has 2 workers"),
        ("a:1,b:2", None, {"SLURM_PROCID": "2"}, "SLURM_PROCID=2: --workers has 2 workers"),
        ("a:1,b:2", None, {"SLURM_PROCID": ""}, "SLURM_PROCID='': expected a whole number from 0"),
        (
            "a:1,b:2", None, {"JOB_COMPLETION_INDEX": "$(INDEX)"},
            "JOB_COMPLETION_INDEX='$(INDEX)': expected a whole number from 0",
        ),
    ],
)  # fmt: skip
def test_a_place_out_of_range_is_refused_by_its_source(workers, index, environment, start):
    assert refusal(workers, index, environment).startswith(start)


WRONG_ADDRESSES = [
    "", "a", "a:", ":1", "a:0", "a:65536", "a:b", "a: 1", " a:1", "a:1:2", "::1:2", "grpc://a:1", "a/b:1", "é:1",
    "a:１",
]  # fmt: skip


@pytest.mark.parametrize("address", WRONG_ADDRESSES)
def test_what_is_no_address_is_refused(address):
    message = f"got {address!r}, expected HOST:PORT"
    assert refusal(f"b:2,{address}", 0, {}).startswith(f"--workers: {message}")
    environment = tf_config({"worker": ["b:2", address]}, {"type": "worker", "index": 0})
    assert refusal(None, None, environment).startswith(f"TF_CONFIG: {message}")


def test_no_worker_is_named_twice():
    assert refusal("a:1,b:2,a:1", 1, {}).startswith("--workers names this worker twice: a:1, expected each once")
    twice = tf_config({"worker": ["a:1", "b:2", "b:2"]}, SECOND)
    assert refusal(None, None, twice).startswith("TF_CONFIG names this worker twice: b:2")
    chief_too = tf_config({**WORKERS, "chief": ["a:1"]}, SECOND)
    assert refusal(None, None, chief_too).startswith("TF_CONFIG names this worker twice: a:1")
    # One host by its count, two processes in truth.
    assert refusal("a:1,a:1", 1, {}).startswith("--workers names this worker twice")


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("worker 0", "TF_CONFIG='worker 0' is not JSON (Expecting value: line 1 column 1 (char 0)): expected {"),
        ("{'cluster':\n1}", "TF_CONFIG=\"{'cluster':\\n1}\" is not JSON"),
        ("[" + "1," * 10_000, "TF_CONFIG='[1,1,"),
        ("[]", "TF_CONFIG='[]' is no JSON object"),
        ("null", "TF_CONFIG='null' is no JSON object"),
    ],
)
def test_what_is_no_json_object_is_refused(text, start):
    message = refusal(None, None, {"TF_CONFIG": text})
    assert message.startswith(start)
    assert message.endswith("Correct or unset it")


@pytest.mark.parametrize(
    ("cluster", "task", "start"),
    [
        (None, SECOND, "TF_CONFIG has no cluster: got None"),
        ({}, SECOND, "TF_CONFIG has no cluster: got {}"),
        (["a:1"], SECOND, "TF_CONFIG has no cluster: got ['a:1']"),
        ({**WORKERS, "ps": ["p:1"]}, SECOND, "TF_CONFIG names 'ps' tasks: expected only worker and at most one chief"),
        ({**WORKERS, "evaluator": ["e:1"]}, SECOND, "TF_CONFIG names 'evaluator' tasks"),
        ({"master": ["a:1"]}, SECOND, "TF_CONFIG names 'master' tasks"),
        ({"worker": "a:1,b:2"}, SECOND, "TF_CONFIG: cluster.worker: got 'a:1,b:2', expected a list of addresses"),
        ({"worker": []}, SECOND, "TF_CONFIG: cluster.worker: got [], expected a list of addresses"),
        ({"worker": [1, "b:2"]}, SECOND, "TF_CONFIG: got 1, expected HOST:PORT"),
        ({**WORKERS, "chief": ["c:3", "d:4"]}, SECOND, "TF_CONFIG names 2 chiefs, ['c:3', 'd:4']: expected at most"),
        (WORKERS, None, "TF_CONFIG has no task with a type and an index: got None"),
        (WORKERS, "worker", "TF_CONFIG has no task with a type and an index: got 'worker'"),
        (WORKERS, {"index": 0}, "TF_CONFIG has no task with a type and an index: got {'index': 0}"),
        (WORKERS, {"type": "worker"}, "TF_CONFIG has no task with a type and an index: got {'type': 'worker'}"),
        (
            WORKERS, {"type": "chief", "index": 0},
            "TF_CONFIG: task.type: got 'chief', expected worker, as the cluster names them",
        ),
        (WORKERS, {"type": "evaluator", "index": 0}, "TF_CONFIG: task.type: got 'evaluator'"),
        (WORKERS, {"type": ["worker"], "index": 0}, "TF_CONFIG: task.type: got ['worker']"),
        (
            WORKERS, {"type": "worker", "index": 2},
            "TF_CONFIG: task.index=2: cluster.worker has 2 workers, expected 0 to 1",
        ),
        # The chief does not count among the workers.
        (
            {**WORKERS, "chief": ["c:3"]}, {"type": "worker", "index": 2},
            "TF_CONFIG: task.index=2: cluster.worker has 2 workers",
        ),
        ({"worker": ["a:1"]}, {"type": "worker", "index": 1}, "TF_CONFIG: task.index=1: cluster.worker has one worker"),
        *(
            (WORKERS, {"type": "worker", "index": index}, f"TF_CONFIG: task.index: got {index!r}, expected a whole")
            for index in (-1, 0.5, True, None, "", "one", [0])
        ),
    ],
)  # fmt: skip
def test_a_tf_config_that_contradicts_itself_is_refused(cluster, task, start):
    assert refusal(None, None, tf_config(cluster, task)).startswith(start)


@pytest.mark.parametrize("name", ["cluster", "task"])
def test_a_tf_config_without_a_part_is_refused(name):
    config = {"cluster": WORKERS, "task": SECOND}
    del config[name]
    assert refusal(None, None, {"TF_CONFIG": json.dumps(config)}).startswith(f"TF_CONFIG has no {name}")


@pytest.mark.parametrize(
    "name",
    [
        *("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_STEP_TASKS_PER_NODE"),
        *("SLURM_PROCID", "SLURM_NODEID", "SLURM_LOCALID"),
    ],
)
def test_a_job_step_that_lacks_a_variable_is_refused(name):
    environment = {key: value for key, value in TWO_NODES.items() if key != name}
    message = refusal(None, None, environment)
    assert message.startswith(f"{name} is not set: expected")
    assert "srun" in message


@pytest.mark.parametrize(
    ("changes", "start"),
    [
        ({"SLURM_STEP_NUM_TASKS": "two"}, "SLURM_STEP_NUM_TASKS='two': expected a whole number from 0"),
        ({"SLURM_PROCID": "-1"}, "SLURM_PROCID='-1': expected a whole number from 0"),
        ({"SLURM_PROCID": "2"}, "SLURM_PROCID=2: the job step has 2 workers, expected 0 to 1"),
        ({"SLURM_JOB_ID": "4711_1"}, "SLURM_JOB_ID='4711_1': expected a whole number from 0"),
        ({"SLURM_NODEID": "?"}, "SLURM_NODEID='?': expected a whole number from 0"),
        (
            {"SLURM_STEP_NODELIST": "n[1-x]"},
            "SLURM_STEP_NODELIST=n[1-x] with SLURM_STEP_TASKS_PER_NODE=1(x2): cannot read [1-x], expected lists",
        ),
        (
            {"SLURM_STEP_NODELIST": "n[]"},
            "SLURM_STEP_NODELIST=n[] with SLURM_STEP_TASKS_PER_NODE=1(x2): cannot read []",
        ),
        ({"SLURM_STEP_NODELIST": "n1,n[2"}, "SLURM_STEP_NODELIST=n1,n[2: got 'n[2:24220', expected HOST:PORT"),
        ({"SLURM_STEP_NODELIST": "n1,"}, "SLURM_STEP_NODELIST=n1,: got ':24220', expected HOST:PORT"),
        ({"SLURM_STEP_NODELIST": "n1,n1"}, "SLURM_STEP_NODELIST=n1,n1 names this worker twice: n1:24220"),
        (
            {"SLURM_STEP_TASKS_PER_NODE": "1(y2)"},
            "SLURM_STEP_NODELIST=n[1-2] with SLURM_STEP_TASKS_PER_NODE=1(y2): cannot read 1(y2), expected lists",
        ),
        (
            {"SLURM_STEP_TASKS_PER_NODE": ""},
            "SLURM_STEP_NODELIST=n[1-2] with SLURM_STEP_TASKS_PER_NODE=: cannot read an empty part",
        ),
        (
            {"SLURM_STEP_TASKS_PER_NODE": "2"},
            "SLURM_STEP_NODELIST=n[1-2] with SLURM_STEP_TASKS_PER_NODE=2: got 2 nodes and 2 tasks on 1, expected",
        ),
        (
            {"SLURM_STEP_NODELIST": "n[1-3]", "SLURM_STEP_TASKS_PER_NODE": "1(x3)"},
            "SLURM_STEP_NODELIST=n[1-3] with SLURM_STEP_TASKS_PER_NODE=1(x3): got 3 nodes and 3 tasks on 3",
        ),
    ],
)
def test_a_job_step_that_contradicts_itself_is_refused(changes, start):
    assert refusal(None, None, TWO_NODES | changes).startswith(start)


def test_tasks_that_are_not_laid_out_node_after_node_are_refused():
    """Of srun --distribution=cyclic; else this task would listen at the address of another host."""
    message = refusal(None, None, slurm(1, "n[1-2]", "2(x2)", tasks=4, place=(1, 0)))
    assert message.startswith(
        "SLURM_PROCID=1: got task 0 of node 1, expected task 1 of node 0. Start with srun --distribu"
    )
