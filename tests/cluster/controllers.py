"""JobSet's and Kueue's controllers with their webhooks, as processes of this machine."""

import base64
import socket
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.control_plane import ControlPlane, free_ports, wait_until

# Kueue has webhooks for jobs of many kinds; these are the ones of this project's, and of its own objects.
_INTEGRATIONS = ("batch-v1-job", "jobset-x-k8s-io", "kueue-x-k8s-io")


def start(plane: ControlPlane) -> None:
    """Starts both controllers, and returns when their webhooks answer."""
    certificates = plane.directory / "serving"
    certificates.mkdir()
    for name in ("crt", "key"):
        (certificates / f"tls.{name}").write_bytes((plane.directory / f"server.{name}").read_bytes())
    start_jobset(plane, certificates)
    start_kueue(plane, certificates)


def start_jobset(plane: ControlPlane, certificates: Path) -> None:
    _define(plane, "jobset")
    (port,) = free_ports(1)
    config = _configure(plane, "jobset", "config.jobset.x-k8s.io/v1alpha1", port, certificates)
    plane.run("jobset", f"--config={config}", "--metrics-bind-address=0", "--health-probe-bind-address=0")
    _register(plane, "jobset", port, certificates)


def start_kueue(plane: ControlPlane, certificates: Path) -> None:
    """Starts Kueue; JobSet's objects must be defined before."""
    _define(plane, "kueue")
    (port,) = free_ports(1)
    config = _configure(
        *(plane, "kueue", "config.kueue.x-k8s.io/v1beta2", port, certificates),
        health={"healthProbeBindAddress": "0"},
        metrics={"bindAddress": "0"},
        integrations={"frameworks": ["batch/job", "jobset.x-k8s.io/jobset"]},
    )
    plane.run(
        "kueue",
        f"--config={config}",
        f"--kubeconfig={plane.kubeconfig}",
        "--feature-gates=VisibilityOnDemand=false",
        prefix=_with_metrics_certificates(plane.directory, certificates),
    )
    _register(plane, "kueue", port, certificates)


def _define(plane: ControlPlane, name: str) -> None:
    """Defines the controller's kinds of objects."""
    definitions = plane.programs / "manifests" / name / "bases"
    # Kueue's are longer than the annotation that a client-side apply writes.
    plane.kubectl("apply", "--server-side", f"--filename={definitions}")
    wait = ("wait", "--for=condition=Established", f"--filename={definitions}", "--timeout=10s")
    count = len(list(definitions.glob("*.yaml")))
    # It fails on a definition that has no conditions yet.
    wait_until(f"{name}'s kinds of objects", lambda: plane.kubectl(*wait, check=False).count("condition met") == count)


def _configure(plane: ControlPlane, name: str, version: str, port: int, certificates: Path, **settings: Any) -> Path:
    """Writes the controller's configuration: certificates from files, webhooks at a port of this machine."""
    path = plane.directory / f"{name}.yaml"
    document = {
        "apiVersion": version,
        "kind": "Configuration",
        "leaderElection": {"leaderElect": False},
        "internalCertManagement": {"enable": False},
        "webhook": {"port": port, "certDir": str(certificates)},
        **settings,
    }
    path.write_text(yaml.safe_dump(document))
    return path


def _register(plane: ControlPlane, name: str, port: int, certificates: Path) -> None:
    """Registers the controller's webhooks as soon as they answer."""
    path = plane.directory / f"{name}-webhooks.yaml"
    webhooks = _webhooks(plane.programs / "manifests" / name, name, port, certificates / "tls.crt")
    path.write_text(yaml.safe_dump_all(webhooks))
    wait_until(f"{name}'s webhooks", lambda: _listens(port))
    plane.kubectl("apply", f"--filename={path}")


def _webhooks(manifests: Path, name: str, port: int, certificate: Path) -> list[Any]:
    """The registrations of a controller's webhooks, with an address of this machine in place of a Service."""
    documents = list(yaml.safe_load_all((manifests / "webhook" / "manifests.yaml").read_text()))
    for document in documents:
        document["metadata"]["name"] = f"{name}-{document['metadata']['name']}"
        kept = []
        for webhook in document["webhooks"]:
            path = webhook["clientConfig"]["service"]["path"]
            if name == "jobset" or any(part in path for part in _INTEGRATIONS):
                bundle = base64.b64encode(certificate.read_bytes()).decode()
                webhook["clientConfig"] = {"url": f"https://127.0.0.1:{port}{path}", "caBundle": bundle}
                kept.append(webhook)
        document["webhooks"] = kept
    return documents


def _with_metrics_certificates(directory: Path, certificates: Path) -> tuple[str, ...]:
    """The beginning of a command that sees /etc/kueue/metrics/certs, where alone Kueue looks for these."""
    layer = directory / "kueue-etc"
    (layer / "kueue" / "metrics").mkdir(parents=True)
    (layer / "kueue" / "metrics" / "certs").symlink_to(certificates)
    script = f'mount -t overlay -o lowerdir="{layer}:/etc" overlay /etc && exec "$@"'
    return ("unshare", "--mount", "sh", "-c", script, "sh")


def _listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0
