"""The workers of a run, from --workers, TF_CONFIG or Slurm; without TensorFlow, so a mistake is reported at once."""

import dataclasses
import itertools
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sostenuto.errors import UserError
from sostenuto.text import counted

# A job's first port is 10000 to 29980, by the last three digits of its number; each task on a node takes the next one.
# All are below the ports (from 32768) that Linux gives to outgoing connections. slurm/tune.sbatch has the same formula.
_SLURM_FIRST_PORT, _SLURM_JOBS, _SLURM_PORTS_PER_JOB = 10000, 1000, 20

_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")
_NUMBER = re.compile(r"[0-9]{1,9}")
_EXAMPLE = '{"cluster": {"worker": ["HOST:PORT", "HOST:PORT"]}, "task": {"type": "worker", "index": 0}}'


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The workers of a run, as one of them sees them."""

    workers: tuple[str, ...]  # "host:port" of each, in the same order in every process; the first is the chief
    index: int  # of this process

    @property
    def is_chief(self) -> bool:
        """Whether this process writes."""
        return self.index == 0

    @property
    def size(self) -> int:
        """The number of workers."""
        return len(self.workers)


def resolve(workers: str | None, worker_index: int | None, environment: Mapping[str, str]) -> Cluster | None:
    """Finds the cluster of this process from the flags --workers and --worker_index, else from the environment.

    Returns None for a single worker. Raises UserError if the first source that is present is incomplete or malformed.
    """
    if workers is not None:
        return _resolve_flags(workers, worker_index, environment)
    if worker_index is not None:
        raise UserError(
            f"--worker_index={worker_index} without --workers: expected both or neither. "
            "List all workers with --workers=HOST:PORT,HOST:PORT,..."
        )
    if "TF_CONFIG" in environment:
        return _resolve_tf_config(environment["TF_CONFIG"])
    # A batch script outside a job step is one host, even if SLURM_NTASKS is above 1. So is a pod with a
    # JOB_COMPLETION_INDEX alone, because an Indexed Job may consist of many runs of one host each.
    return _resolve_slurm(environment) if "SLURM_STEP_NUM_TASKS" in environment else None


def _resolve_flags(workers: str, worker_index: int | None, environment: Mapping[str, str]) -> Cluster | None:
    addresses = workers.split(",")
    _check_addresses(addresses, source="--workers")
    # From the environment, so that all pods of a Kubernetes Indexed Job run the same command.
    variable = next((name for name in ("JOB_COMPLETION_INDEX", "SLURM_PROCID") if name in environment), None)
    if worker_index is not None:
        source, index = "--worker_index", worker_index
    elif variable:
        source, index = variable, _parse_number(variable, environment[variable])
    elif len(addresses) == 1:
        return None
    else:
        raise UserError(
            f"--workers={_excerpt(workers)}: the index of this process is missing, expected --worker_index=N "
            "(counted from 0), JOB_COMPLETION_INDEX or SLURM_PROCID. Set one of them"
        )
    _check_index(index, len(addresses), source=source, where="--workers")
    return _make_cluster(addresses, index)


def _resolve_tf_config(text: str) -> Cluster | None:
    """Reads TF_CONFIG as TensorFlow documents it for workers and a chief."""
    if not text.strip():
        return None
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"TF_CONFIG={_excerpt(text)} is not JSON ({error}): expected {_EXAMPLE}. Correct or unset it"
        ) from error
    if config == {}:
        return None
    if not isinstance(config, dict):
        raise UserError(f"TF_CONFIG={_excerpt(text)} is no JSON object: expected {_EXAMPLE}. Correct or unset it")
    tasks = _parse_tasks(config.get("cluster"))
    kind, index = _parse_task(config.get("task"), tasks)
    chiefs = tasks.get("chief", [])
    addresses = [*chiefs, *tasks.get("worker", [])]
    _check_addresses(addresses, source="TF_CONFIG")
    return _make_cluster(addresses, index + (len(chiefs) if kind == "worker" else 0))


def _parse_tasks(cluster: Any) -> dict[str, list[str]]:
    """Checks "cluster" of TF_CONFIG: the addresses of each kind of task."""
    if not isinstance(cluster, dict) or not cluster:
        raise UserError(
            f"TF_CONFIG has no cluster: got {_excerpt(cluster)}, "
            f"expected the addresses of all workers, as in {_EXAMPLE}. Add it or unset TF_CONFIG"
        )
    for kind, addresses in cluster.items():
        if kind not in ("chief", "worker"):
            raise UserError(
                f"TF_CONFIG names {_excerpt(kind)} tasks: expected only worker and at most one chief. "
                "Remove them; the workers share the training equally and evaluate themselves"
            )
        if not isinstance(addresses, list) or not addresses:
            raise UserError(
                f"TF_CONFIG: cluster.{kind}: got {_excerpt(addresses)}, "
                'expected a list of addresses such as ["HOST:PORT"]. Correct it'
            )
    if len(cluster.get("chief", [])) > 1:
        raise UserError(
            f"TF_CONFIG names {len(cluster['chief'])} chiefs, {_excerpt(cluster['chief'])}: "
            "expected at most one. List the others as workers"
        )
    return cluster


def _parse_task(task: Any, tasks: Mapping[str, Sequence[str]]) -> tuple[str, int]:
    """Checks "task" of TF_CONFIG; returns its type, and its index among the tasks of that type."""
    if not isinstance(task, dict) or not {"type", "index"} <= task.keys():
        raise UserError(
            f"TF_CONFIG has no task with a type and an index: got {_excerpt(task)}, "
            'expected this process\'s, such as "task": {"type": "worker", "index": 0}. Add it'
        )
    kind, index = task["type"], task["index"]
    if kind not in list(tasks):
        raise UserError(
            f"TF_CONFIG: task.type: got {_excerpt(kind)}, expected {' or '.join(sorted(tasks))}, as the cluster names "
            "them. Correct it"
        )
    # TensorFlow accepts a quoted number too, which templates often produce.
    if not isinstance(index, int | str) or not _NUMBER.fullmatch(str(index)):
        raise UserError(f"TF_CONFIG: task.index: got {_excerpt(index)}, expected a whole number from 0. Correct it")
    _check_index(int(index), len(tasks[kind]), source="TF_CONFIG: task.index", where=f"cluster.{kind}")
    return kind, int(index)


def _resolve_slurm(environment: Mapping[str, str]) -> Cluster | None:
    """Finds the tasks of a Slurm job step, by rank.

    TensorFlow's SlurmClusterResolver sorts hosts as text (n1, n10, n2), so most ranks would get another host's address.
    It also sets CUDA_VISIBLE_DEVICES, which is Slurm's task, and rejects lists such as n[1-2]-ib or rack[1-2]n[1-4].
    """

    def text(name: str) -> str:
        if name in environment:
            return environment[name]
        raise UserError(
            f"{name} is not set: expected all variables of srun, because SLURM_STEP_NUM_TASKS is "
            f"{environment['SLURM_STEP_NUM_TASKS']}. Start the workers with srun, or name them with --workers"
        )

    def number(name: str) -> int:
        return _parse_number(name, text(name))

    tasks = number("SLURM_STEP_NUM_TASKS")
    if tasks <= 1:
        return None
    rank, nodes, counts = number("SLURM_PROCID"), text("SLURM_STEP_NODELIST"), text("SLURM_STEP_TASKS_PER_NODE")
    first_port = _SLURM_FIRST_PORT + number("SLURM_JOB_ID") % _SLURM_JOBS * _SLURM_PORTS_PER_JOB
    hosts, tasks_per_host = _expand_nodes(nodes, counts, tasks)
    _check_index(rank, tasks, source="SLURM_PROCID", where="the job step")
    places = [(node, local) for node, count in enumerate(tasks_per_host) for local in range(count)]
    # Only block distribution fills node after node; a task cannot find out any other distribution.
    node, local = number("SLURM_NODEID"), number("SLURM_LOCALID")
    if (node, local) != places[rank]:
        raise UserError(
            f"SLURM_PROCID={rank}: got task {local} of node {node}, expected task {places[rank][1]} of node "
            f"{places[rank][0]}. Start with srun --distribution=block, or name the workers with --workers"
        )
    addresses = [f"{hosts[node]}:{first_port + local}" for node, local in places]
    _check_addresses(addresses, source=f"SLURM_STEP_NODELIST={nodes}")
    return _make_cluster(addresses, rank)


def _expand_nodes(nodes: str, counts: str, tasks: int) -> tuple[list[str], list[int]]:
    """Returns the hosts of a Slurm job step and their numbers of tasks."""
    variables = f"SLURM_STEP_NODELIST={nodes} with SLURM_STEP_TASKS_PER_NODE={counts}"
    try:
        hosts, tasks_per_host = _expand_hosts(nodes), _expand_counts(counts)
    except ValueError as error:
        raise UserError(
            f"{variables}: cannot read {error}, expected lists such as n[1-2],m5 and 2(x2),1. "
            "Name the workers with --workers"
        ) from error
    if len(hosts) != len(tasks_per_host) or sum(tasks_per_host) != tasks:
        raise UserError(
            f"{variables}: got {counted(len(hosts), 'node')} and {counted(sum(tasks_per_host), 'task')} on "
            f"{len(tasks_per_host)}, expected the {tasks} of SLURM_STEP_NUM_TASKS. Name the workers with --workers"
        )
    return hosts, tasks_per_host


def _expand_hosts(nodes: str) -> list[str]:
    """Expands a Slurm node list, in its order: "n[08-10,12],m5" is n08, n09, n10, n12, m5; raises ValueError."""
    hosts = []
    for part in re.split(r",(?![^\[]*\])", nodes):
        # The pieces are text and ranges in turn, because the pattern has a group.
        pieces = re.split(r"\[([^\[\]]*)\]", part)
        choices = [_expand_ranges(piece) if number % 2 else [piece] for number, piece in enumerate(pieces)]
        hosts += ["".join(choice) for choice in itertools.product(*choices)]
    return hosts


def _expand_ranges(ranges: str) -> list[str]:
    """Expands "08-10,12" to 08, 09, 10, 12, as wide as the first number of each range."""
    numbers: list[str] = []
    for part in ranges.split(","):
        match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", part)
        if not match:
            raise ValueError(f"[{ranges}]")
        first, last = match[1], match[2] or match[1]
        numbers += [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    return numbers


def _expand_counts(counts: str) -> list[int]:
    """Expands the tasks of each node: "2(x3),1" is 2, 2, 2, 1; raises ValueError."""
    expanded: list[int] = []
    for part in counts.split(","):
        match = re.fullmatch(r"([0-9]{1,9})(?:\(x([0-9]{1,9})\))?", part)
        if not match:
            raise ValueError(part or "an empty part")
        expanded += [int(match[1])] * int(match[2] or 1)
    return expanded


def _parse_number(name: str, text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise UserError(
            f"{name}={_excerpt(text)}: expected a whole number from 0. Correct it, or pass --workers and --worker_index"
        )
    return int(text)


def _check_addresses(addresses: Sequence[Any], *, source: str) -> None:
    """Raises UserError unless each address is host:port and all differ."""
    for address in addresses:
        match = _ADDRESS.fullmatch(address) if isinstance(address, str) else None
        if not match or not 0 < int(match[2]) < 2**16:
            raise UserError(
                f"{source}: got {_excerpt(address)}, expected HOST:PORT as in train-0:2222. Correct the address"
            )
    address, times = Counter(addresses).most_common(1)[0]
    if times > 1:
        raise UserError(
            f"{source} names this worker twice: {address}, expected each once. Give each worker its own port"
        )


def _check_index(index: int, size: int, *, source: str, where: str) -> None:
    if not 0 <= index < size:
        workers, expected = (f"{size} workers", f"0 to {size - 1}") if size > 1 else ("one worker", "0")
        raise UserError(
            f"{source}={index}: {where} has {workers}, expected {expected}. Correct it, or add the missing workers"
        )


def _make_cluster(addresses: Sequence[str], index: int) -> Cluster | None:
    return Cluster(tuple(addresses), index) if len(addresses) > 1 else None


def _excerpt(value: Any) -> str:
    """Returns a value for a message, at most 80 characters long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
