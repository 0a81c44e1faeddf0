"""What a user types, against a server that takes nothing that is not right."""

import os
import re
import subprocess

import pytest

from tests.k8s.api_server import Cluster, served
from tests.k8s.cluster import MANIFESTS, OVERLAYS, edited, kubectl
from tests.k8s.conftest import VARIANTS
from tests.k8s.test_manifests import validate


@pytest.fixture
def cluster(tmp_path):
    """A cluster, and what runs kubectl against it."""
    cluster = Cluster(validate)
    with served(cluster) as address:

        def run(*command: str, status: int = 0) -> str:
            process = subprocess.run(
                [kubectl(), *command, "--server", address, "--validate=false", f"--cache-dir={tmp_path / 'cache'}"],
                env={**os.environ, "HOME": str(tmp_path), "KUBECONFIG": os.devnull, "NO_PROXY": "localhost"},
                capture_output=True,
                text=True,
                check=False,
            )
            assert process.returncode == status, process.stderr
            return process.stdout + process.stderr

        yield cluster, run


@pytest.mark.parametrize("variant", VARIANTS)
def test_everything_is_accepted(cluster, renderings, variant, tmp_path):
    overlay, edits = VARIANTS[variant]
    taken, run = cluster
    run("create", "-k", edited(tmp_path, overlay, **edits))
    assert set(taken.objects) == {(one["kind"], one["metadata"]["name"]) for one in renderings[variant]}


def test_parts_may_be_applied_one_by_one_and_then_all(cluster):
    """As the README says: nothing that is there already is sent a second time."""
    taken, run = cluster
    overlay = str(MANIFESTS / "overlays" / "gke-l4")
    text = (MANIFESTS / "README.md").read_text()
    (selector,) = set(re.findall(r"kubectl apply -k \S+ -l '(app.*preprocess.*)'", text))
    run("apply", "-k", overlay, "-l", selector)
    assert [name for kind, name in taken.objects if kind == "Job"] == ["preprocess"]
    before = len(taken.changes)
    said = run("apply", "-k", overlay)
    assert said.count("unchanged") == before
    jobs = {name for kind, name in taken.changes[before:] if kind == "Job"}
    assert jobs == {"train", "tune-chief", "tune-worker", "tensorboard"}


def test_a_job_that_is_there_is_not_changed_in_passing(cluster, tmp_path):
    """Its settings have their own name, so that pods that are started again find those that the Job began with."""
    taken, run = cluster
    run("apply", "-k", edited(tmp_path / "1", "local"))
    (before,) = (name for kind, name in taken.objects if kind == "ConfigMap")
    run("apply", "-k", edited(tmp_path / "2", "local", RUN="second"), status=1)
    assert len([name for kind, name in taken.objects if kind == "ConfigMap"]) == 2
    assert before in str(taken.objects["Job", "train"])


def test_the_server_refuses_what_is_wrong(cluster, tmp_path):
    taken, run = cluster
    overlay = edited(tmp_path, "local")
    path = tmp_path / "k8s" / "base" / "train" / "job.yaml"
    path.write_text(path.read_text().replace("backoffLimit:", "backofLimit:"))
    assert "backofLimit" in run("create", "-k", overlay, status=1)
    assert ("Job", "train") not in taken.objects
    assert "already exists" in run("create", "-k", overlay, status=1)


def test_the_readme_names_every_file():
    """Each directory and each overlay has its line."""
    text = (MANIFESTS / "README.md").read_text()
    directories = {path.parent.relative_to(MANIFESTS) for path in MANIFESTS.rglob("kustomization.yaml")}
    for directory in directories:
        assert f"`{directory}/`" in text, directory
    assert {f"overlays/{name}" for name in OVERLAYS} <= {str(directory) for directory in directories}
