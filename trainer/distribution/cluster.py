"""Which workers train together, and which of them this process is.

Every process of a run gets the same list of workers and finds its own place in it. Of three sources the first that is
there counts:

1. The flags `--workers=HOST:PORT,HOST:PORT,...` and `--worker_index=N`. Without `--worker_index` the place is
   JOB_COMPLETION_INDEX, else SLURM_PROCID. So all pods of a Kubernetes Indexed Job take the same command: for a Job
   `train` of two completions behind a headless Service `train` (which is also the `subdomain` of its pods) that is
   `--workers=train-0.train:2222,train-1.train:2222`, and Kubernetes sets JOB_COMPLETION_INDEX in each pod. That
   variable alone means nothing: an Indexed Job may as well be many runs of one host each.
2. TF_CONFIG, as TensorFlow documents it for workers and a chief.
3. The variables of a Slurm job step. The batch script of an allocation is not within a step, whatever SLURM_NTASKS
   says there: it is one host until it calls srun.

This module does not import TensorFlow: what is wrong with a source is said at once.
"""

import dataclasses
import itertools
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sostenuto.errors import UserError

# The tasks of one node listen at this port and those that follow. It lies below the ports (from 32768) that Linux gives
# to outgoing connections, so that none of those takes it first.
SLURM_PORT = 12345

_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")
_NUMBER = re.compile(r"[0-9]{1,9}")
_EXAMPLE = '{"cluster": {"worker": ["HOST:PORT", "HOST:PORT"]}, "task": {"type": "worker", "index": 0}}'


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The workers of a run, as one of them sees them.

    Attributes:
        workers: "host:port" of each, in the same order in every process; the first is the chief.
        index: which of them this process is, from 0.
    """

    workers: tuple[str, ...]
    index: int

    @property
    def is_chief(self) -> bool:
        """Whether this process is the one that writes."""
        return self.index == 0

    @property
    def size(self) -> int:
        """The number of workers."""
        return len(self.workers)

    def tf_config(self) -> str:
        """The JSON text for TF_CONFIG, from which TensorFlow reads the same cluster."""
        return json.dumps({"cluster": {"worker": self.workers}, "task": {"type": "worker", "index": self.index}})


def resolve(workers: str | None, worker_index: int | None, environment: Mapping[str, str]) -> Cluster | None:
    """Finds the cluster that this process belongs to.

    Args:
        workers: the flag `--workers`, None where it is not given.
        worker_index: the flag `--worker_index`, None where it is not given.
        environment: the environment of the process.

    Returns:
        The cluster, or None where there is but one worker: training on one host.

    Raises:
        UserError: the source that counts is incomplete, malformed or contradicts itself.
    """
    if workers is not None:
        return _from_flags(workers, worker_index, environment)
    if worker_index is not None:
        raise UserError(
            f"--worker_index={worker_index} without --workers: expected both or neither; "
            "list all workers with --workers=HOST:PORT,HOST:PORT,..."
        )
    if "TF_CONFIG" in environment:
        return _from_tf_config(environment["TF_CONFIG"])
    if "SLURM_STEP_NUM_TASKS" in environment:
        return _from_slurm(environment)
    return None


def _from_flags(workers: str, worker_index: int | None, environment: Mapping[str, str]) -> Cluster | None:
    addresses = workers.split(",")
    _check_addresses(addresses, source="--workers")
    variable = next((name for name in ("JOB_COMPLETION_INDEX", "SLURM_PROCID") if name in environment), None)
    if worker_index is not None:
        source, index = "--worker_index", worker_index
    elif variable:
        source, index = variable, _whole_number(variable, environment[variable])
    elif len(addresses) == 1:
        return None
    else:
        raise UserError(
            f"--workers={_excerpt(workers)} does not say which of them this process is: "
            "expected --worker_index=N, counted from 0, or JOB_COMPLETION_INDEX or SLURM_PROCID; give one"
        )
    _check_index(index, len(addresses), source=source, where="--workers")
    return _cluster(addresses, index)


def _from_tf_config(text: str) -> Cluster | None:
    if not text.strip():
        return None
    try:
        config = json.loads(text)
    except ValueError as error:
        raise UserError(
            f"TF_CONFIG={_excerpt(text)} is not JSON ({error}): expected {_EXAMPLE}; correct or unset it"
        ) from error
    if config == {}:
        return None
    if not isinstance(config, dict):
        raise UserError(f"TF_CONFIG={_excerpt(text)} is no JSON object: expected {_EXAMPLE}; correct or unset it")
    tasks = _tf_config_tasks(config.get("cluster"))
    kind, index = _tf_config_place(config.get("task"), tasks)
    addresses = [*tasks.get("chief", []), *tasks.get("worker", [])]
    _check_addresses(addresses, source="TF_CONFIG")
    # The chief comes first: the workers stand behind it.
    return _cluster(addresses, index + (len(tasks.get("chief", [])) if kind == "worker" else 0))


def _tf_config_tasks(cluster: Any) -> dict[str, list[str]]:
    """The checked "cluster" of TF_CONFIG: the addresses of each kind of task."""
    if not isinstance(cluster, dict) or not cluster:
        raise UserError(
            f"TF_CONFIG has no cluster (given: {_excerpt(cluster)}): "
            f"expected the addresses of all workers, as in {_EXAMPLE}; add it or unset TF_CONFIG"
        )
    for kind, addresses in cluster.items():
        if kind not in ("chief", "worker"):
            raise UserError(
                f"TF_CONFIG names {_excerpt(kind)} tasks: expected only worker and at most one chief; "
                "take them out, the workers share the training equally and evaluate themselves"
            )
        if not isinstance(addresses, list) or not addresses:
            raise UserError(
                f"TF_CONFIG: cluster.{kind} is {_excerpt(addresses)}: "
                'expected a list of addresses such as ["HOST:PORT"]; correct it'
            )
    if len(cluster.get("chief", [])) > 1:
        raise UserError(
            f"TF_CONFIG names {len(cluster['chief'])} chiefs, {_excerpt(cluster['chief'])}: "
            "expected at most one; list the others as workers"
        )
    return cluster


def _tf_config_place(task: Any, tasks: Mapping[str, Sequence[str]]) -> tuple[str, int]:
    """The checked "task" of TF_CONFIG: its type, and its index among the tasks of that type."""
    if not isinstance(task, dict) or not {"type", "index"} <= task.keys():
        raise UserError(
            f"TF_CONFIG has no task with a type and an index (given: {_excerpt(task)}): "
            'expected what says which worker this process is; add "task": {"type": "worker", "index": 0}'
        )
    kind, index = task["type"], task["index"]
    if kind not in list(tasks):
        raise UserError(
            f"TF_CONFIG: task.type is {_excerpt(kind)}, but the cluster names only {' and '.join(sorted(tasks))}: "
            "expected one of those; correct it"
        )
    # TensorFlow takes a number in quotes too, which is what templates often make.
    if not isinstance(index, int | str) or not _NUMBER.fullmatch(str(index)):
        raise UserError(f"TF_CONFIG: task.index is {_excerpt(index)}: expected a whole number from 0; correct it")
    _check_index(int(index), len(tasks[kind]), source="TF_CONFIG: task.index", where=f"cluster.{kind}")
    return kind, int(index)


def _from_slurm(environment: Mapping[str, str]) -> Cluster | None:
    """The tasks of a Slurm job step, by rank.

    TensorFlow's SlurmClusterResolver is not used. It sorts hosts as text (n1, n10, n2, ...), so that most ranks of
    n[1-10] get the address of another host; it runs nvidia-smi and sets CUDA_VISIBLE_DEVICES, which is Slurm's own
    part; and its helpers are private, load all of TensorFlow, and refuse lists such as n[1-2]-ib or rack[1-2]n[1-4].
    """
    tasks = _slurm_number(environment, "SLURM_STEP_NUM_TASKS")
    if tasks <= 1:
        return None
    rank = _slurm_number(environment, "SLURM_PROCID")
    nodes, counts = (_slurm_variable(environment, f"SLURM_STEP_{name}") for name in ("NODELIST", "TASKS_PER_NODE"))
    try:
        hosts, tasks_per_host = _expand_hosts(nodes), _expand_counts(counts)
    except ValueError as error:
        raise UserError(
            f"SLURM_STEP_NODELIST={nodes} with SLURM_STEP_TASKS_PER_NODE={counts}: cannot read {error}, "
            "expected lists such as n[1-2],m5 and 2(x2),1; name the workers with --workers"
        ) from error
    if len(hosts) != len(tasks_per_host) or sum(tasks_per_host) != tasks:
        raise UserError(
            f"SLURM_STEP_NODELIST={nodes} with SLURM_STEP_TASKS_PER_NODE={counts} gives {len(hosts)} nodes and "
            f"{sum(tasks_per_host)} tasks on {len(tasks_per_host)}: expected the {tasks} of SLURM_STEP_NUM_TASKS; "
            "name the workers with --workers"
        )
    _check_index(rank, tasks, source="SLURM_PROCID", where="the job step")
    places = [(node, local) for node, count in enumerate(tasks_per_host) for local in range(count)]
    # Only block distribution fills node after node; nothing tells a task how any other has placed the rest.
    given = (_slurm_number(environment, "SLURM_NODEID"), _slurm_number(environment, "SLURM_LOCALID"))
    if given != places[rank]:
        raise UserError(
            f"SLURM_PROCID={rank} is task {given[1]} of node {given[0]}, expected task {places[rank][1]} of node "
            f"{places[rank][0]}: start with srun --distribution=block, or name the workers with --workers"
        )
    addresses = [f"{hosts[node]}:{SLURM_PORT + local}" for node, local in places]
    _check_addresses(addresses, source=f"SLURM_STEP_NODELIST={nodes}")
    return _cluster(addresses, rank)


def _slurm_variable(environment: Mapping[str, str], name: str) -> str:
    if name not in environment:
        raise UserError(
            f"{name} is not set, though SLURM_STEP_NUM_TASKS={environment['SLURM_STEP_NUM_TASKS']} speaks of several "
            "tasks: expected all that srun sets; start the workers with srun, or name them with --workers"
        )
    return environment[name]


def _expand_hosts(nodes: str) -> list[str]:
    """The hosts of a Slurm node list, in its order: "n[08-10,12],m5" is n08, n09, n10, n12, m5.

    Raises:
        ValueError: a range is malformed; the message is the range.
    """
    hosts = []
    for part in re.split(r",(?![^\[]*\])", nodes):
        # Splitting by a group keeps what it matched: text and ranges take turns.
        pieces = re.split(r"\[([^\[\]]*)\]", part)
        choices = [_expand_ranges(piece) if number % 2 else [piece] for number, piece in enumerate(pieces)]
        hosts += ["".join(choice) for choice in itertools.product(*choices)]
    return hosts


def _expand_ranges(ranges: str) -> list[str]:
    """The numbers of "08-10,12", as wide as each range begins: 08, 09, 10, 12."""
    numbers: list[str] = []
    for part in ranges.split(","):
        match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", part)
        if not match:
            raise ValueError(f"[{ranges}]")
        first, last = match[1], match[2] or match[1]
        numbers += [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    return numbers


def _expand_counts(counts: str) -> list[int]:
    """The tasks of each node, in order: "2(x3),1" is 2, 2, 2, 1.

    Raises:
        ValueError: a part is malformed; the message is the part.
    """
    expanded: list[int] = []
    for part in counts.split(","):
        match = re.fullmatch(r"([0-9]{1,9})(?:\(x([0-9]{1,9})\))?", part)
        if not match:
            raise ValueError(part or "an empty part")
        expanded += [int(match[1])] * int(match[2] or 1)
    return expanded


def _slurm_number(environment: Mapping[str, str], name: str) -> int:
    return _whole_number(name, _slurm_variable(environment, name))


def _whole_number(name: str, text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise UserError(
            f"{name}={_excerpt(text)}: expected a whole number from 0; "
            "correct it, or say it with --workers and --worker_index"
        )
    return int(text)


def _check_addresses(addresses: Sequence[Any], *, source: str) -> None:
    """Raises UserError unless each address is host:port and none stands there twice."""
    for address in addresses:
        match = _ADDRESS.fullmatch(address) if isinstance(address, str) else None
        if not match or not 0 < int(match[2]) < 2**16:
            raise UserError(
                f"{source}: {_excerpt(address)} is no worker's address: expected HOST:PORT, as in train-0:2222"
            )
    address, times = Counter(addresses).most_common(1)[0]
    if times > 1:
        raise UserError(f"{source} names this worker twice: {address}; expected each once, with a port of its own")


def _check_index(index: int, size: int, *, source: str, where: str) -> None:
    if not 0 <= index < size:
        expected = f"expected 0 to {size - 1}" if size > 1 else "expected 0"
        workers = f"{size} workers" if size > 1 else "one worker"
        raise UserError(f"{source}={index}: {where} has {workers}, {expected}; correct it, or add the missing workers")


def _cluster(addresses: Sequence[str], index: int) -> Cluster | None:
    return Cluster(tuple(addresses), index) if len(addresses) > 1 else None


def _excerpt(value: Any) -> str:
    """A value for a message: on one line, and not longer than a message can bear."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
