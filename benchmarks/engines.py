"""Measures preprocessing on the engines that one machine can have, with 1, 2 and 4 workers.

    python benchmarks/engines.py [--corpus=DIR] [--files=5000] [--workers=1,2,4] [--engines=home,dask] [--runs=2]
    python benchmarks/engines.py --engines=prism --prism=PATH

The corpus is --files copies of the one given, or of small generated performances. "home" is the command without
--runner; "dask" has a scheduler and workers, each a process with a thread; "prism" is Beam's portable runner in Go with
a pool of workers, which decides itself how many it takes. Each row has --runs of the whole command, start-up and
commit included, while scheduler and workers have started before: in the first one each of Dask's workers also imports
Apache Beam. Every dataset is compared with the first one, byte by byte. Printed are the wall-clock seconds of the first
and the last run, the notes a second of the last one, the peak memory of the command, with its children, and that of the
scheduler.
"""

import argparse
import contextlib
import filecmp
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from preprocess import Peak, copy_corpus, find_files, generate, run_command

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from sostenuto.data.manifest import SPLITS, Manifest  # noqa: E402

ENGINES = ("home", "dask", "prism")


class Servers(NamedTuple):
    """What an engine's processes need of the command: its arguments, and the process that schedules."""

    arguments: list[str]
    scheduler: subprocess.Popen | None


@contextlib.contextmanager
def home(workers: int, directory: Path, prism: Path) -> Iterator[Servers]:
    """Yields the arguments for child processes of the command."""
    yield Servers([f"--direct_num_workers={workers}"], None)


@contextlib.contextmanager
def dask(workers: int, directory: Path, prism: Path) -> Iterator[Servers]:
    """Yields the arguments for a scheduler and workers, which it starts and ends."""
    file = directory / "scheduler.json"
    flags = [f"--scheduler-file={file}", "--no-dashboard"]
    with contextlib.ExitStack() as processes:
        scheduler = processes.enter_context(_running("distributed.cli.dask_scheduler", *flags, "--port=0"))
        while not file.exists():
            time.sleep(0.1)
        for _ in range(workers):
            processes.enter_context(_running("distributed.cli.dask_worker", *flags, "--nthreads=1", "--no-nanny"))
        _wait_for_workers(file, workers)
        yield Servers(["--runner=dask", f"--dask_scheduler_file={file}"], scheduler)


def _wait_for_workers(file: Path, number: int) -> None:
    import distributed

    with distributed.Client(scheduler_file=str(file), set_as_default=False) as client:
        client.wait_for_workers(number, timeout=300)


@contextlib.contextmanager
def portable(workers: int, directory: Path, prism: Path) -> Iterator[Servers]:
    """Yields the arguments for Prism and a pool of workers, which it starts and ends."""
    port, pool = _free_port(), _free_port()
    with (
        _process([str(prism), f"-job_port={port}", "-serve_http=false"]) as scheduler,
        _running("apache_beam.runners.worker.worker_pool_main", f"--service_port={pool}"),
    ):
        time.sleep(5)
        flags = [f"--job_endpoint=localhost:{port}", f"--environment_config=localhost:{pool}"]
        yield Servers(["--runner=PortableRunner", "--environment_type=EXTERNAL", *flags], scheduler)


STARTERS = dict(zip(ENGINES, (home, dask, portable), strict=True))


def _running(module: str, *flags: str) -> contextlib.AbstractContextManager[subprocess.Popen]:
    return _process([sys.executable, "-m", module, *flags])


@contextlib.contextmanager
def _process(command: list[str]) -> Iterator[subprocess.Popen]:
    """Yields a process, and ends it with its children."""
    with subprocess.Popen(
        command,
        env={
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def measure(engine: str, workers: int, runs: int, corpus: Path, directory: Path, prism: Path) -> list[Path]:
    """Runs the command some times, prints a row of the table, and returns the datasets."""
    output = directory / f"{engine}-{workers}"
    output.mkdir()
    datasets = [output / f"dataset-{number}" for number in range(runs)]
    with STARTERS[engine](workers, output, prism) as servers:
        peak = Peak(servers.scheduler.pid) if servers.scheduler else None
        first, *others = [run_command(corpus, str(dataset), ["--", *servers.arguments]) for dataset in datasets]
        scheduler_bytes = peak.stop() if peak else 0
    last = others[-1] if others else first
    manifest = Manifest.load(str(datasets[-1]))
    notes = sum(manifest.splits[split].notes for split in SPLITS)
    cells = (
        engine,
        "–" if engine == "prism" else str(workers),
        f"{first.seconds:.1f}",
        f"{last.seconds:.1f}",
        f"{notes / last.seconds:,.0f}",
        f"{last.peak_kilobytes / 1000:,.0f} MB",
        f"{scheduler_bytes / 1e6:,.0f} MB" if scheduler_bytes else "–",
    )
    print(f"| {' | '.join(cells)} |", flush=True)
    return datasets


def assert_same(one: Path, other: Path) -> None:
    """Ends the program if two datasets differ."""
    names = sorted(path.name for path in one.iterdir())
    same, _, _ = filecmp.cmpfiles(one, other, names, shallow=False)
    if not names == same == sorted(path.name for path in other.iterdir()):
        sys.exit(f"{other}: other bytes than {one}")


def main() -> None:
    """Measures all engines with all numbers of workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, help="a directory of MIDI files")
    parser.add_argument("--files", type=int, default=5_000)
    parser.add_argument("--runs", type=int, default=2, choices=range(1, 10))
    parser.add_argument("--workers", default="1,2,4")
    parser.add_argument("--engines", default="home,dask")
    parser.add_argument("--prism", type=Path, help="the program, for the engine prism")
    options = parser.parse_args()
    engines = options.engines.split(",")
    if unknown := set(engines) - set(ENGINES):
        parser.error(f"--engines: unknown {', '.join(sorted(unknown))}, expected {', '.join(ENGINES)}")
    if "prism" in engines and not (options.prism and options.prism.is_file()):
        parser.error("--prism: expected the path of the program, for the engine prism")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        files = find_files(options.corpus) if options.corpus else generate(directory / "generated")
        corpus = copy_corpus(files, directory, options.files, archive=False)
        print(f"{options.files:,} performances")
        titles = ("engine", "workers", "first, s", "last, s", "notes/s", "command", "scheduler")
        print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}", flush=True)
        datasets = [
            dataset
            for engine in engines
            for workers in map(int, options.workers.split(",") if engine != "prism" else ["1"])
            for dataset in measure(engine, workers, options.runs, corpus, directory, options.prism)
        ]
        for dataset in datasets[1:]:
            assert_same(datasets[0], dataset)
    print("all datasets have the same bytes")


if __name__ == "__main__":
    main()
