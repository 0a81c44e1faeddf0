"""etcd, Kubernetes' programs, JobSet's and Kueue's controllers: built from Go modules, once, into a cache.

`python -m tests.cluster.build` builds them and prints their directory. The versions and checksums of all modules are
in go/. The directory's name has a hash of these, so that another version is another directory.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_MODULES = Path(__file__).parent / "go"
_VERSION = "k8s.io/component-base/version"
# The files of the controllers' modules that a cluster needs.
_CONTROLLERS = ("jobset", "kueue")
_MANIFESTS = ("config/components/crd/bases", "config/components/webhook")


def programs() -> Path:
    """Returns the directory of the programs; builds them first if the cache lacks them."""
    directory = _directory()
    cache = directory.parent
    cache.mkdir(parents=True, exist_ok=True)
    with _lock(cache):
        if not directory.exists():
            for unfinished in cache.glob("unfinished-*"):
                shutil.rmtree(unfinished)
            building = Path(tempfile.mkdtemp(prefix="unfinished-", dir=cache))
            _build(building)
            building.rename(directory)  # a killed build leaves no directory of this name
    return directory


def are_built() -> bool:
    """True if the cache has all programs, so that nothing needs Go."""
    return _directory().exists()


def _directory() -> Path:
    cache = os.environ.get("SOSTENUTO_CLUSTER_CACHE") or Path.home() / ".cache" / "sostenuto" / "cluster"
    return Path(cache) / _versions()


def _versions() -> str:
    digest = hashlib.sha256()
    for path in [*sorted(_MODULES.rglob("go.*")), Path(__file__)]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def _lock(cache: Path) -> Iterator[None]:
    with open(cache / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(directory: Path) -> None:
    (version,) = re.findall(r"k8s.io/kubernetes v(\S+)", (_MODULES / "kubernetes" / "go.mod").read_text())
    major, minor, _ = version.split(".")
    stamps = {"gitVersion": f"v{version}", "gitMajor": major, "gitMinor": minor}
    for module in ("kubernetes", *_CONTROLLERS):
        print(f"building {module} (cached afterwards)", flush=True)
        began = time.monotonic()
        flags = " ".join(f"-X {_VERSION}.{name}={value}" for name, value in stamps.items())
        _go(module, "build", "-trimpath", "-ldflags", f"-s -w {flags}", "-o", f"{directory}/", "tool")
        print(f"built {module} in {time.monotonic() - began:.0f} s", flush=True)
    (directory / "server").rename(directory / "etcd")
    for name in _CONTROLLERS:
        source = Path(_go(name, "list", "-m", "-f", "{{.Dir}}", f"sigs.k8s.io/{name}").strip())
        for part in _MANIFESTS:
            shutil.copytree(source / part, directory / "manifests" / name / Path(part).name)
    for path in directory.rglob("*"):  # Go's module cache is read-only
        path.chmod(0o755)


def _go(module: str, *arguments: str) -> str:
    process = subprocess.run(
        ["go", *arguments],
        cwd=_MODULES / module,
        env={**os.environ, "GOFLAGS": "-mod=readonly", "GOWORK": "off"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return process.stdout


if __name__ == "__main__":
    print(programs())
