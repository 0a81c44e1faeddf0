"""What a scanner of others says of the manifests.

checkov brings a hundred packages and wants other versions than ours, so that it lives in an environment of its own,
which `make policies` creates.
"""

import json
import shutil
import subprocess

import pytest
import yaml

from tests.k8s.cluster import MANIFESTS, Object, by_name
from tests.k8s.test_manifests import broken


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    program = shutil.which("checkov") or pytest.skip("no checkov on the PATH: make policies")

    def failed(objects: list[Object]) -> set[str]:
        path = tmp_path_factory.mktemp("scan") / "rendered.yaml"
        path.write_text(yaml.safe_dump_all(objects))
        process = subprocess.run(
            [program, "--config-file", MANIFESTS / ".checkov.yaml", "--output", "json", "--file", path],
            capture_output=True,
            text=True,
            check=False,
        )
        report = json.loads(process.stdout)
        assert report["summary"]["passed"] > 100
        assert report["summary"]["parsing_errors"] == 0
        return {f"{check['check_id']} {check['resource']}" for check in report["results"]["failed_checks"]}

    return failed


def test_no_policy_is_broken(renderings, scan):
    """JobSets are not known to it; their pods are those of the Jobs."""
    assert scan([*renderings["local, many nodes"], *renderings["gke-l4, many nodes, components"]]) == set()


def test_a_broken_policy_is_seen(renderings, scan):
    path = "spec.template.spec.containers.0.securityContext.privileged"
    objects = broken(renderings["gke-h100"], "Job", "train", path, True)
    assert by_name(objects, "Job", "train")["metadata"]["namespace"] == "sostenuto"
    assert scan(objects) == {"CKV_K8S_16 Job.sostenuto.train"}
