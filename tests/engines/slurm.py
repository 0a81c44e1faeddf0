"""Debian's Slurm with four nodes on this machine, each with a network and a host name of its own.

The controller and the nodes are processes of one PID namespace: nothing of them outlives its first process, and nothing
of them is seen outside. Only root can start them.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

from tests.processes import wait_until

PROGRAMS = ("slurmctld", "slurmd", "munged", "ip", "taskset", "unshare", "nsenter", "setpriv")
NODES = 4

# States that a job does not leave. A job on a failed node has NODE_FAIL until it is requeued.
_FINAL = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")

# One address a node, below a bridge that only the namespace has.
_CONTROLLER, _NETWORK = "10.77.0.1", "10.77.0"

_NAMESPACE = ("unshare", "--net", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")

# A requeued job waits until its credential has expired.
_CONFIGURATION = """
ClusterName=local
SlurmctldHost=controller
AuthType=auth/munge
AuthInfo=socket={directory}/munge.socket,cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool-%n
SlurmctldLogFile={directory}/controller.log
SlurmdLogFile={directory}/%n.log
SlurmctldPidFile={directory}/controller.pid
SlurmdPidFile={directory}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
TaskProlog={directory}/prolog
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=batch_sched_delay=1,sched_interval=5,bf_interval=5
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
MinJobAge=3600
NodeName=n[1-{nodes}] CPUs=2 RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE DefMemPerCPU=1000 OverSubscribe=NO State=UP
"""

# Slurm binds a node's first task to the node's first core, which would be the same core of this machine for all nodes.
# Every second node swaps cores 0 and 1, if this machine lets it. The parent of this script is the task.
_PROLOG = """#!/usr/bin/env bash
set -euo pipefail
case "$SLURMD_NODENAME" in *[02468])
    case "$(taskset --pid --cpu-list $PPID)" in
        *": 0") taskset --pid --cpu-list 1 $PPID ;;
        *": 1") taskset --pid --cpu-list 0 $PPID ;;
    esac > /dev/null 2>&1 || true
esac
"""

# The first process of the namespace. A node's network interface comes from outside of its own namespace.
_CONTROLLER_SCRIPT = """
set -euo pipefail
cd "$1"
mount --bind hosts /etc/hosts
hostname controller
ip link set lo up
ip link add nodes type bridge
ip address add {controller}/24 dev nodes
ip link set nodes up
munged --foreground --force --socket="$1/munge.socket" --key-file="$1/munge.key" --pid-file="$1/munged.pid" \\
    --log-file="$1/munged.log" --seed-file="$1/munged.seed" &
for node in $(seq {nodes}); do
    unshare --net --uts bash -euo pipefail -c "$2" node "$node" > "n$node.out" 2>&1 &
    until [ -e "n$node.namespace" ]; do sleep 0.05; done
    ip link add "n$node" type veth peer name eth0 netns $!
    ip link set "n$node" master nodes up
done
exec slurmctld -D > controller.out 2>&1
"""

_NODE_SCRIPT = """
hostname "n$1"
echo $$ > "n$1.namespace"
ip link set lo up
until ip link show eth0 > /dev/null 2>&1; do sleep 0.05; done
ip address add "{network}.1$1/24" dev eth0
ip link set eth0 up
exec slurmd -D
"""


def missing() -> str:
    """Returns why there can be no Slurm here, or an empty text."""
    absent = [name for name in PROGRAMS if not shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")]
    if absent:
        return f"no {absent[0]} (Debian: apt install slurm-wlm munge iproute2)"
    if os.geteuid() != 0:
        return "only root can start a Slurm with nodes of its own"
    process = subprocess.run([*_NAMESPACE, "true"], capture_output=True, text=True, check=False)
    return f"no namespaces for the nodes: {process.stderr.strip()}" if process.returncode else ""


class Slurm:
    """A running Slurm; a context manager that ends it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __enter__(self) -> "Slurm":
        """Starts the controller and the nodes, and waits until all are idle."""
        directory = self.directory
        directory.mkdir(parents=True)
        (directory / "state").mkdir()
        (directory / "munge.key").write_bytes(os.urandom(128))
        (directory / "munge.key").chmod(0o400)
        (directory / "slurm.conf").write_text(_CONFIGURATION.format(directory=directory, nodes=NODES))
        (directory / "prolog").write_text(_PROLOG)
        (directory / "prolog").chmod(0o755)
        names = [f"{_NETWORK}.1{node} n{node}" for node in range(1, NODES + 1)]
        (directory / "hosts").write_text("\n".join(["127.0.0.1 localhost", f"{_CONTROLLER} controller", *names, ""]))
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH"))},
            "SLURM_CONF": str(directory / "slurm.conf"),
            "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
        }
        script = _CONTROLLER_SCRIPT.format(controller=_CONTROLLER, nodes=NODES)
        with (directory / "namespace.out").open("wb") as output:
            self._outside = subprocess.Popen(
                [
                    *("setpriv", "--pdeathsig=KILL"),
                    *_NAMESPACE,
                    *("bash", "-c", script, "controller", str(directory), _NODE_SCRIPT.format(network=_NETWORK)),
                ],
                env=self._environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            wait_until(lambda: self._first_process() is not None, 30, "no namespace")
            wait_until(self._all_idle, 60, lambda: f"nodes are not idle\n{self.logs()}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Kills the namespace's first process, and with it all others."""
        self._outside.kill()
        self._outside.wait()

    def _first_process(self) -> int | None:
        """Returns the namespace's first process as its parent numbers it."""
        children = Path(f"/proc/{self._outside.pid}/task/{self._outside.pid}/children").read_text().split()
        return int(children[0]) if children else None

    def _all_idle(self) -> bool:
        process = self.call("sinfo", "--noheader", "--Node", "--format=%T", check=False)
        return process.stdout.split() == ["idle"] * NODES

    def call(
        self, *command: str, cwd: Path | None = None, check: bool = True, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command on the controller, in a directory that the nodes have too."""
        process = subprocess.run(
            [
                *("nsenter", f"--target={self._first_process()}", "--net", "--uts", "--mount", "--pid"),
                *(f"--wd={cwd or self.directory}", *command),
            ],
            env={**self._environment, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert not check or process.returncode == 0, f"{command}: {process.returncode}\n{process.stderr}"
        return process

    def field(self, job: str, name: str) -> str:
        """Returns a field of `scontrol show job`, such as JobState."""
        shown = self.call("scontrol", "show", "job", job).stdout
        match = re.search(rf"(?:^|\s){name}=(\S*)", shown)
        assert match, f"{name}: {shown}"
        return match[1]

    def wait(self, job: str, state: str, seconds: float = 120) -> None:
        """Waits until a job has a state, such as COMPLETED."""

        def has_state() -> bool:
            found = self.field(job, "JobState")
            assert found == state or found not in _FINAL, f"job {job} is {found}, expected {state}\n{self.output(job)}"
            return found == state

        wait_until(has_state, seconds, lambda: f"job {job} is not {state}\n{self.output(job)}\n{self.logs()}")

    def output(self, job: str) -> str:
        """Returns what a job's script and steps have written."""
        path = Path(self.field(job, "StdOut"))
        return path.read_text(errors="replace") if path.exists() else ""

    def processes(self, job: str, *arguments: str) -> dict[int, int]:
        """Returns the processes of a job whose command line has the arguments, by their task's rank."""
        found = {}
        for directory in Path("/proc").glob("[0-9]*"):
            try:
                environment = (directory / "environ").read_bytes().split(b"\0")
                command = (directory / "cmdline").read_bytes().decode(errors="replace").split("\0")
                namespace = os.readlink(directory / "ns" / "pid")
            except OSError:
                continue  # It has ended.
            ours = namespace == os.readlink(f"/proc/{self._first_process()}/ns/pid")
            variables = dict(item.decode(errors="replace").partition("=")[::2] for item in environment)
            is_task = variables.get("SLURM_JOB_ID") == job and "SLURM_STEP_NUM_TASKS" in variables
            if ours and is_task and Path(command[0]).name.startswith("python") and set(arguments) <= set(command):
                found[int(variables["SLURM_PROCID"])] = int(directory.name)
        return found

    def logs(self) -> str:
        """Returns the ends of all logs."""
        files = sorted(self.directory.glob("*.out")) + sorted(self.directory.glob("*.log"))
        return "\n".join(f"{path.name}:\n{path.read_text(errors='replace')[-3000:]}" for path in files)
