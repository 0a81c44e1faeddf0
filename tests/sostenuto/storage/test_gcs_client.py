"""Credentials, retries and error messages of requests to a bucket."""

import io

import pytest

from sostenuto import storage
from sostenuto.errors import UnavailableError, UserError
from sostenuto.storage import gcs as remote
from sostenuto.storage import gcs_retry
from tests.gcs_server import ACCOUNT, GcsServer
from tests.processes import run_python


@pytest.mark.parametrize(
    ("permission", "action"),
    [
        ("storage.objects.get", lambda: storage.read_bytes("gs://bucket/a/file")),
        ("storage.objects.list", lambda: storage.list_files("gs://bucket/a")),
        ("storage.objects.create", lambda: remote.write("gs://bucket/new", io.BytesIO(b""), generation=0)),
        ("storage.objects.create", lambda: remote.write("gs://bucket/new", io.BytesIO(bytes(2**24)), generation=0)),
        ("storage.objects.delete", lambda: storage.remove("gs://bucket/a/file")),
        ("storage.objects.delete", lambda: storage.write_bytes_atomic("gs://bucket/a/file", b"")),
    ],
)
def test_a_missing_permission_is_named(gcs, permission, action):
    gcs.put("gs://bucket/a/file", b"data")
    gcs.forbid("bucket", permission)
    with pytest.raises(
        UserError,
        match=rf"gs://bucket/.*lacks the permission {permission} on bucket bucket \({ACCOUNT} does not .*\)\. Grant it",
    ):
        action()
    gcs.allow("bucket")
    action()


def test_a_bucket_that_does_not_answer_is_given_up_after_a_while(monkeypatch, quick_retries):
    monkeypatch.setattr(gcs_retry, "RETRY_SECONDS", 0.3)
    monkeypatch.setattr(gcs_retry, "FIRST_RETRY_SECONDS", 0.2)
    with GcsServer() as server:
        server.fault_of = lambda method, path: "refuse"
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        with pytest.raises(UnavailableError, match="gs://bucket/file: the bucket does not answer"):
            storage.read_bytes("gs://bucket/file")
        assert server.faults > 3
    with pytest.raises(UnavailableError, match="gs://bucket/file: the bucket does not answer"):
        remote.write("gs://bucket/file", io.BytesIO(b""), generation=0)
    storage.close()


def read_without_emulator(server, tmp_path, **environment):
    """Reads an object as on a machine of Google's with the environment given."""
    (tmp_path / "home").mkdir(exist_ok=True)
    program = """
from sostenuto import storage
from sostenuto.errors import UnavailableError, UserError
try:
    print(storage.read_bytes("gs://bucket/file").decode())
except UserError as error:
    print(error)
"""
    return run_python(
        "-W",
        "error",
        "-W",
        "ignore::ResourceWarning",
        "-c",
        program,
        API_ENDPOINT_OVERRIDE=server.url,
        HOME=str(tmp_path / "home"),
        CLOUDSDK_CONFIG=str(tmp_path / "home"),
        **environment,
    )


def test_credentials_come_from_the_environment(tmp_path, monkeypatch):
    for name in ("STORAGE_EMULATOR_HOST", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    with GcsServer() as server:
        server.put("gs://bucket/file", b"data")
        anonymous = {"NO_GCE_CHECK": "true"}
        pod = {"GCE_METADATA_HOST": server.address, "GCE_METADATA_IP": server.address}
        # A public bucket needs no credentials.
        assert read_without_emulator(server, tmp_path, **anonymous).stdout == "data\n"
        server.needs_credentials = True
        line = read_without_emulator(server, tmp_path, **anonymous).stdout
        assert line.startswith(
            "gs://bucket/file: no credentials were found, and bucket bucket is not public "
            "(Anonymous caller does not have storage.objects.get access.). Run gcloud"
        )
        assert "workload identity" in line
        process = read_without_emulator(server, tmp_path, **pod)
        assert (process.stdout, process.stderr) == ("data\n", "")
        server.forbid("bucket")
        line = read_without_emulator(server, tmp_path, **pod).stdout
        assert line.startswith(f"gs://bucket/file: {ACCOUNT} lacks the permission storage.objects.get on bucket bucket")
        (tmp_path / "key.json").write_text("{}")
        line = read_without_emulator(
            server, tmp_path, GOOGLE_APPLICATION_CREDENTIALS=str(tmp_path / "key.json"), **anonymous
        ).stdout
        assert "key.json: cannot be used" in line
        assert line.count("\n") == 1


def test_a_forked_child_has_connections_of_its_own(gcs):
    gcs.put("gs://bucket/file", b"data")
    storage.read_bytes("gs://bucket/file")
    program = """
import os
from sostenuto import storage
assert storage.read_bytes("gs://bucket/file") == b"data"
children = []
for _ in range(4):
    child = os.fork()
    if not child:
        os._exit(0 if all(storage.read_bytes("gs://bucket/file") == b"data" for _ in range(20)) else 1)
    children.append(child)
print([os.waitpid(child, 0)[1] for child in children])
"""
    process = run_python("-c", program)
    assert process.stdout == "[0, 0, 0, 0]\n", process.stderr


def test_the_library_is_loaded_only_for_a_bucket(tmp_path):
    program = f"""
import sys
from sostenuto import storage
storage.write_bytes_atomic({str(tmp_path / "file")!r}, b"data")
print(storage.read_bytes({str(tmp_path / "file")!r}), "google.cloud.storage" in sys.modules, "requests" in sys.modules)
"""
    assert run_python("-c", program).stdout == "b'data' False False\n"
