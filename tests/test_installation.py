"""The installation, by make, from a package index on loopback and with locks of a few tiny packages."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.package_index import PackageIndex, sha256, write_installed_wheel, write_uv_wheel, write_wheel

ROOT = Path(__file__).resolve().parent.parent
BASE_PYTHON = getattr(sys, "_base_executable", sys.executable)
CLOSED = "http://127.0.0.1:9/simple/"  # no server


class Checkout:
    """A clone of the parts that install, in a directory with spaces in its name.

    Attributes:
        root: its directory.
        wheels: the directory of the wheels that its locks may pin.
        environment: variables of its commands.
    """

    def __init__(self, root: Path, wheels: Path, index: str) -> None:
        self.root = root
        self.wheels = wheels
        (root / "requirements").mkdir(parents=True)
        shutil.copy(ROOT / "Makefile", root)
        for name in ("environment.py", "install.py"):
            shutil.copy(ROOT / "requirements" / name, root / "requirements")
        (root / "demo").mkdir()
        (root / "demo" / "__main__.py").write_text("import alpha, beta\nalpha.main()\nbeta.main()\n")
        inherited = {
            name: value for name, value in os.environ.items() if not re.match("PIP_|UV_|MAKE|MFLAGS|PYTHON", name)
        }
        self.environment = {
            **inherited,
            "HOME": str(root.parent),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": index,
            "PIP_NO_CACHE_DIR": "1",
            "UV_CACHE_DIR": str(root.parent / "cache"),
            "UV_HTTP_RETRIES": "0",
            "NO_PROXY": "127.0.0.1",
        }
        self.lock("uv", "uv")
        self.lock("cpu", "alpha-1.0", "beta-1.0")
        self.lock("development", "alpha-1.0", "beta-1.0", "gamma-1.0")

    @property
    def venv(self) -> Path:
        return self.root / ".venv"

    @property
    def packages(self) -> Path:
        (packages,) = self.venv.glob("lib/python*/site-packages")
        return packages

    def lock(self, name: str, *packages: str) -> None:
        """Writes a lock that pins wheels, each named by the beginning of its file's name."""
        lines = ["# A lock."]
        for package in packages:
            (wheel,) = self.wheels.glob(f"{package}-*.whl")
            pin = "==".join(wheel.name.split("-")[:2])
            lines += [f"{pin} \\", f"    --hash=sha256:{sha256(wheel)}"]
        (self.root / "requirements" / f"{name}.txt").write_text("\n".join([*lines, ""]))

    def make(self, *arguments: str, python: str = BASE_PYTHON, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["make", "--no-print-directory", *arguments, *([f"PYTHON={python}"] if python else [])],
            cwd=self.root,
            env={**self.environment, **variables},
            capture_output=True,
            text=True,
            check=False,
        )

    def install(self, *arguments: str, **variables: str) -> str:
        """Runs `make install` to a good end and returns its output."""
        process = self.make("install", *arguments, **variables)
        assert process.returncode == 0, process.stdout + process.stderr
        return process.stdout

    def versions(self) -> list[str]:
        """Returns the packages of the locks that are installed, as the environment's own Python sees them."""
        listed = "sorted(f'{d.name} {d.version}' for d in importlib.metadata.distributions())"
        code = f"import importlib.metadata; print(*{listed}, sep='\\n')"
        process = subprocess.run(
            [self.venv / "bin" / "python", "-I", "-c", code], capture_output=True, text=True, check=True
        )
        return [line for line in process.stdout.splitlines() if line.split()[0] not in ("pip", "setuptools", "uv")]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the index offers: beta wants alpha with an extra, and alpha has a later release than the locks pin."""
    directory = tmp_path_factory.mktemp("wheels")
    write_uv_wheel(directory)
    for version in ("1.0", "2.0"):
        write_wheel(directory, "alpha", version, extras=["fast"], requires=['gamma; extra == "fast"'], script="alpha")
    write_wheel(directory, "beta", "1.0", requires=["alpha[fast]>=1"])
    write_wheel(directory, "gamma", "1.0")
    return directory


@pytest.fixture(scope="module")
def index(wheels: Path) -> Iterator[PackageIndex]:
    with PackageIndex(wheels) as server:
        yield server


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, wheels: Path, index: PackageIndex) -> Checkout:
    """A checkout whose environment was made; a test that changes it leaves one that `make install` mends."""
    checkout = Checkout(tmp_path_factory.mktemp("installed") / "a checkout", wheels, index.url)
    checkout.install()
    return checkout


@pytest.fixture
def bare(tmp_path: Path, wheels: Path, index: PackageIndex) -> Checkout:
    """A checkout without an environment."""
    return Checkout(tmp_path / "a checkout", wheels, index.url)


def assert_one_line(process: subprocess.CompletedProcess[str], *parts: str) -> None:
    """Checks that a command of make failed with status 2 and one line, which has these parts."""
    assert process.returncode == 2, process.stdout + process.stderr
    line, end = process.stderr.strip().splitlines()
    assert re.fullmatch(r"make: \*\*\* \[.*\] Error 2", end)
    assert [part for part in parts if part not in line] == []
    assert "Traceback" not in process.stdout


def test_a_later_release_breaks_what_resolves_and_not_the_lock(installed: Checkout, tmp_path: Path) -> None:
    """`pip install --require-hashes` looks for alpha[fast] again, finds 2.0, and has no hash for it."""
    lock = installed.root / "requirements" / "development.txt"
    subprocess.run([BASE_PYTHON, "-m", "venv", tmp_path / "pip"], check=True)
    resolved = subprocess.run(
        [tmp_path / "pip" / "bin" / "python", "-m", "pip", "install", "--require-hashes", "--requirement", lock],
        env=installed.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert resolved.returncode == 1
    assert "alpha[fast]" in resolved.stderr
    installed.install("LOCKS=development")
    assert installed.versions() == ["alpha 1.0", "beta 1.0", "gamma 1.0"]


def test_a_complete_environment_is_not_changed_and_needs_no_network(installed: Checkout) -> None:
    installed.install()
    assert installed.install(PIP_INDEX_URL=CLOSED) == ""


@pytest.mark.parametrize("writes", [False, True])
def test_where_python_writes_no_bytecode_the_installation_does(bare: Checkout, writes: bool) -> None:
    """Every process would compile TensorFlow again."""
    bare.install(PYTHONDONTWRITEBYTECODE="" if writes else "1")
    assert bool(list(bare.packages.glob("alpha/__pycache__/*.pyc"))) is not writes


def test_a_larger_lock_satisfies_a_smaller_one(installed: Checkout) -> None:
    installed.install("LOCKS=development")
    demo = installed.make("demo", PIP_INDEX_URL=CLOSED)
    assert (demo.returncode, demo.stdout) == (0, "alpha 1.0\nbeta 1.0\n"), demo.stderr
    assert "gamma 1.0" in installed.versions()


def truncate(file: Path) -> None:
    """Shortens a file that may be a hard link to uv's cache, which loses it too."""
    with open(file, "r+b") as opened:
        opened.truncate(3)


BREAK: dict[str, Callable[[Checkout], object]] = {
    "a file is missing": lambda checkout: (checkout.packages / "alpha" / "part.py").unlink(),
    "a file is short, also in uv's cache": lambda checkout: truncate(checkout.packages / "alpha" / "__init__.py"),
    "a package is missing": lambda checkout: shutil.rmtree(checkout.packages / "beta"),
    "a package's metadata is empty": lambda checkout: truncate(checkout.packages / "beta-1.0.dist-info" / "RECORD"),
    "a package and its metadata are missing": lambda checkout: [
        shutil.rmtree(checkout.packages / name) for name in ("beta", "beta-1.0.dist-info")
    ],
    "pip is half removed": lambda checkout: shutil.rmtree(checkout.packages / "pip" / "_internal"),
    "uv is removed": lambda checkout: (checkout.venv / "bin" / "uv").unlink(),
    "the record is no JSON": lambda checkout: truncate(checkout.venv / "installed.json"),
    "the record is removed": lambda checkout: (checkout.venv / "installed.json").unlink(),
    "the settings are removed": lambda checkout: (checkout.venv / "pyvenv.cfg").unlink(),
}


@pytest.mark.parametrize("damage", BREAK)
def test_a_damaged_environment_is_repaired(damage: str, installed: Checkout) -> None:
    installed.install()
    BREAK[damage](installed)
    installed.install()
    assert set(installed.versions()) >= {"alpha 1.0", "beta 1.0"}
    assert installed.make("demo").stdout == "alpha 1.0\nbeta 1.0\n"
    assert installed.install(PIP_INDEX_URL=CLOSED) == ""


def test_an_environment_whose_python_was_removed_is_made_again(installed: Checkout) -> None:
    for python in installed.venv.glob("bin/python*"):
        python.unlink()
        python.symlink_to("/nowhere/python")
    assert "its Python does not run" in installed.install()
    assert installed.make("demo").stdout == "alpha 1.0\nbeta 1.0\n"


def test_an_environment_of_another_python_is_made_again(installed: Checkout) -> None:
    """The link `python3` leads to another version after an upgrade of the system."""
    installed.install()
    installed.packages.parent.rename(installed.venv / "lib" / "python3.9")
    assert "its Python does not run" in installed.install()
    assert installed.make("demo").stdout == "alpha 1.0\nbeta 1.0\n"


def test_an_environment_that_was_moved_is_made_again(bare: Checkout, tmp_path: Path) -> None:
    """Its scripts would name the former directory."""
    bare.install()
    bare.root = bare.root.rename(tmp_path / "elsewhere")
    assert f"it was moved from {tmp_path}/a checkout/.venv" in bare.install()
    script = subprocess.run([bare.venv / "bin" / "alpha"], capture_output=True, text=True, check=True)
    assert script.stdout == "alpha 1.0\n"


def test_an_installation_that_was_killed_is_continued(bare: Checkout, index: PackageIndex) -> None:
    index.stalled, index.stall = "/files/beta", type(index.stall)()
    command = ["make", "install", f"PYTHON={BASE_PYTHON}"]
    with subprocess.Popen(
        command, cwd=bare.root, env=bare.environment, stdout=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            assert index.stall.wait(60)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    index.stalled = ""
    assert bare.make("install").returncode == 0
    assert bare.versions() == ["alpha 1.0", "beta 1.0"]


def test_an_environment_is_upgraded_in_place(installed: Checkout) -> None:
    installed.install("LOCKS=development")
    (installed.venv / "kept").touch()
    write_wheel(installed.packages, "stray", "1.0").rename(installed.wheels / "stray-1.0-py3-none-any.whl")
    stray = [installed.venv / "bin" / "python", "-m", "pip", "install", "--quiet", "stray"]
    subprocess.run(stray, env=installed.environment, check=True)
    try:
        for lock in ("cpu", "development"):
            installed.lock(lock, "alpha-2.0", "beta-1.0", *["gamma-1.0"] * (lock == "development"))
        out = installed.install()
        assert "Making" not in out
        assert " - alpha==1.0\n + alpha==2.0\n" in out
        assert installed.versions() == ["alpha 2.0", "beta 1.0", "gamma 1.0"]
        assert (installed.venv / "kept").exists()
    finally:
        installed.lock("cpu", "alpha-1.0", "beta-1.0")
        installed.lock("development", "alpha-1.0", "beta-1.0", "gamma-1.0")


def test_the_command_of_the_checkout_runs_from_any_directory(installed: Checkout, tmp_path: Path) -> None:
    package = installed.root / "sostenuto" / "cli"
    package.mkdir(parents=True)
    (package / "main.py").write_text("import sys\n\n\ndef main():\n    print(sys.argv[1:])\n")
    command = [installed.venv / "bin" / "sostenuto", "train", "--data=a b"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout == (
        "['train', '--data=a b']\n"
    )


def test_another_directory_can_be_given(installed: Checkout, tmp_path: Path) -> None:
    venv = tmp_path / "another environment"
    installed.install(f"VENV={venv}")
    assert installed.make("demo", f"VENV={venv}").stdout == "alpha 1.0\nbeta 1.0\n"


def test_a_wheelhouse_installs_without_a_network(installed: Checkout, bare: Checkout, tmp_path: Path) -> None:
    process = installed.make("wheelhouse", f"WHEELHOUSE={tmp_path}/a wheelhouse", "LOCKS=development")
    assert process.returncode == 0, process.stderr
    assert {file.name.split("-")[0] for file in (tmp_path / "a wheelhouse").iterdir()} == {
        "alpha",
        "beta",
        "gamma",
        "uv",
    }
    bare.install("LOCKS=development", f"WHEELHOUSE={tmp_path}/a wheelhouse", PIP_INDEX_URL=CLOSED)
    assert bare.versions() == ["alpha 1.0", "beta 1.0", "gamma 1.0"]


def test_an_incomplete_wheelhouse_is_one_line(installed: Checkout, tmp_path: Path) -> None:
    installed.install()
    shutil.rmtree(installed.packages / "alpha-1.0.dist-info")
    process = installed.make("install", f"WHEELHOUSE={tmp_path}")
    assert_one_line(process, "alpha", str(tmp_path), "make wheelhouse")
    installed.install()


def test_no_network_is_one_line(bare: Checkout) -> None:
    assert_one_line(bare.make("install", PIP_INDEX_URL=CLOSED), "uv==", "Check the network", "docs/installation.md")
    bare.install()
    shutil.rmtree(bare.packages / "alpha-1.0.dist-info")
    closed = {"PIP_INDEX_URL": CLOSED, "UV_CACHE_DIR": str(bare.root / "empty cache")}
    assert_one_line(bare.make("install", **closed), "alpha", "Check the network", "docs/installation.md")


def test_an_unknown_lock_is_one_line(bare: Checkout) -> None:
    assert_one_line(bare.make("install", "LOCKS=cqu"), "no lock cqu", "cpu, development")


def test_no_python_is_one_line(bare: Checkout) -> None:
    assert_one_line(bare.make("install", python="no-such-python"), "none of no-such-python", "3.11", "PYTHON=")
    assert not bare.venv.exists()


def test_a_python_without_venv_is_one_line(bare: Checkout, tmp_path: Path) -> None:
    (tmp_path / "venv.py").write_text("raise ImportError\n")
    assert_one_line(bare.make("install", PYTHONPATH=str(tmp_path)), "venv module", "apt-get install", "PYTHON=")


def test_a_python_without_ensurepip_installs_with_its_own_pip_or_says_so(bare: Checkout, tmp_path: Path) -> None:
    """Debian's python3 has the module venv, and ensurepip only with python3-venv."""
    (tmp_path / "ensurepip.py").write_text("raise ImportError\n")
    (tmp_path / "pip.py").write_text("raise ImportError\n")
    process = bare.make("install", PYTHONPATH=str(tmp_path))
    assert_one_line(process, "neither ensurepip nor pip", "python3-venv", "PYTHON=")
    (tmp_path / "pip.py").unlink()
    # In this process setuptools would warn: it replaces distutils where pip is looked for.
    find = [sys.executable, "-c", "import pip; print(pip.__path__[0])"]
    (tmp_path / "pip").symlink_to(subprocess.run(find, capture_output=True, text=True, check=True).stdout.strip())
    bare.install(PYTHONPATH=str(tmp_path))
    assert bare.versions() == ["alpha 1.0", "beta 1.0"]


def test_a_directory_that_is_no_environment_is_left_alone(bare: Checkout, tmp_path: Path) -> None:
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "letter").touch()
    process = bare.make("install", f"VENV={tmp_path}/documents")
    assert_one_line(process, f"{tmp_path}/documents", "not an environment", "VENV=")
    assert (tmp_path / "documents" / "letter").exists()
    bare.venv.write_text("a file")
    assert_one_line(bare.make("install"), ".venv", "not an environment")


SETUP = """
from setuptools import setup

extras = dict.fromkeys(["beam", "dask", "gcp", "train", "tune", "play", "inspect", "gpu"], [])
setup(name="tiny", version="1", packages=[], install_requires=["alpha"], extras_require={**extras, "demo": ["beta"]})
"""


def test_make_lock_lists_what_it_changed_and_upgrades_no_more_than_asked(
    bare: Checkout, wheels: Path, tmp_path: Path
) -> None:
    bare.wheels = tmp_path / "wheels"
    bare.wheels.mkdir()
    write_installed_wheel(bare.wheels, "setuptools")
    shutil.copy(next(wheels.glob("uv-*")), bare.wheels)
    for name in ("alpha", "beta", "gamma", "checkov"):
        write_wheel(bare.wheels, name, "1.0")
    shutil.copy(ROOT / "requirements" / "lock.py", bare.root / "requirements")
    (bare.root / "requirements" / "development.in").write_text("gamma>=1  # for tests\n")
    (bare.root / "setup.py").write_text(SETUP)
    with PackageIndex(bare.wheels) as index:

        def lock(*arguments: str) -> list[str]:
            process = bare.make("lock", *arguments, PIP_INDEX_URL=index.url, UV_DEFAULT_INDEX=index.url)
            assert process.returncode == 0, process.stderr
            return [line for line in process.stdout.splitlines() if line.startswith(" ") or "txt: " in line]

        for name in ("cpu", "development"):
            (bare.root / "requirements" / f"{name}.txt").unlink()
        lock()
        texts = {path.name: path.read_text() for path in (bare.root / "requirements").glob("*.txt")}
        assert re.findall("^[a-z].*==[0-9.]+", texts["cpu.txt"], re.MULTILINE) == ["alpha==1.0", "beta==1.0"]
        for name in ("alpha", "beta", "gamma"):
            write_wheel(bare.wheels, name, "2.0")
        assert [line for line in lock() if "unchanged" not in line] == []
        assert {path.name: path.read_text() for path in (bare.root / "requirements").glob("*.txt")} == texts
        changed = lock("LOCK_ARGS=--upgrade-package=beta")
        assert changed[:4] == [
            "development.txt: 1 of 3 packages changed",
            "  beta: 1.0 -> 2.0",
            "cpu.txt: 1 of 2 packages changed",
            "  beta: 1.0 -> 2.0",
        ]
        (bare.root / "requirements" / "development.in").write_text("delta>=1\n")
        texts = {path.name: path.read_text() for path in (bare.root / "requirements").glob("*.txt")}
        failed = bare.make("lock", PIP_INDEX_URL=index.url, UV_DEFAULT_INDEX=index.url)
        assert failed.returncode == 2
        assert "No lock was changed" in failed.stderr
        assert {path.name: path.read_text() for path in (bare.root / "requirements").glob("*.txt")} == texts
