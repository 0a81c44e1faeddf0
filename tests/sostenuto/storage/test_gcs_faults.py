"""What a bucket's faults do to requests: ended sessions, outages, rejections, and who pays."""

import contextlib
import io
import logging
import os
import re
import time
import traceback

import pytest
from google.auth.exceptions import RefreshError, TransportError

from sostenuto import storage
from sostenuto.errors import FileError, MissingError, UnavailableError, UserError
from sostenuto.storage import gcs as remote
from sostenuto.storage import gcs_retry, gcs_streams
from sostenuto.storage.gcs_client import connect
from tests.factories import melody
from tests.gcs_server import ACCOUNT, GcsServer, Refusal
from tests.processes import run_python

SMALL, LARGE = b"data", os.urandom(5 * 2**18 // 2)


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch, quick_retries):
    for module in (remote, gcs_streams):
        monkeypatch.setattr(module, "CHUNK_BYTES", 2**18)


@pytest.fixture
def impatient(monkeypatch):
    """Patience of one second, and warnings after a third of it."""
    for name, seconds in {
        "RETRY_SECONDS": 1.0, "FIRST_RETRY_SECONDS": 1.0, "WARN_SECONDS": 0.3, "LAST_SECONDS": 0.1,
        "_POLL_SECONDS": 0.02,
    }.items():  # fmt: skip
        monkeypatch.setattr(gcs_retry, name, seconds)


def write(uri: str, data: bytes) -> int | None:
    return remote.write(uri, io.BytesIO(data), generation=0)


@pytest.mark.parametrize("fault", ["gone", "forgotten"])
@pytest.mark.parametrize("struck", [{1}, {3}, {1, 2, 5}])
def test_an_upload_whose_session_ends_is_sent_again_from_its_beginning(gcs, fault, struck):
    parts = []

    def strike(method, path):
        parts.append(path) if method == "PUT" else None
        return fault if method == "PUT" and len(parts) in struck else None

    gcs.fault_of = strike
    assert write("gs://bucket/large", LARGE) == gcs.generation("gs://bucket/large")
    assert gcs.get("gs://bucket/large") == LARGE
    assert gcs.fault_names[fault] == len(struck)


def test_an_upload_that_was_complete_when_its_session_ended_is_not_taken_for_that_of_another(gcs):
    answers = [None, None, "cut after", "gone"]
    gcs.fault_of = lambda method, path: answers.pop(0) if method == "PUT" else None
    assert write("gs://bucket/large", LARGE) == gcs.generation("gs://bucket/large")
    assert not answers


@pytest.mark.parametrize("fault", ["gone", "forgotten", "refuse", "cut before", Refusal(400, "Bad part")])
def test_no_error_of_an_upload_contains_its_url_which_is_a_credential(gcs, impatient, fault):
    gcs.fault_of = lambda method, path: fault if method == "PUT" else None
    with pytest.raises(FileError, match="gs://bucket/large: ") as caught:
        write("gs://bucket/large", LARGE)
    assert "upload_id" not in "".join(traceback.format_exception(caught.value))
    assert isinstance(caught.value, UnavailableError) == isinstance(fault, str)


def test_no_error_contains_an_uploads_url_when_the_server_has_gone(monkeypatch, impatient):
    with GcsServer() as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        server.before = lambda method, path: server._http.server_close() if method == "PUT" else None
        server.fault_of = lambda method, path: "cut before" if method == "PUT" else None
        with pytest.raises(UnavailableError, match=r"refused|disconnected|aborted") as caught:
            write("gs://bucket/large", LARGE)
        assert "upload_id" not in "".join(traceback.format_exception(caught.value))
        storage.close()


def test_an_empty_object_has_no_size_and_is_one_all_the_same(gcs, tmp_path):
    storage.write_bytes_atomic("gs://bucket/a", b"")
    storage.rename("gs://bucket/a", "gs://bucket/b")
    storage.write_bytes_atomic("gs://bucket/b", b"")
    (tmp_path / "empty").touch()
    storage.upload(tmp_path / "empty", "gs://bucket/c")
    assert storage.download_all("gs://bucket", tmp_path / "copy").keys() == {"b", "c"}
    assert gcs.contents("gs://bucket/") == {"b": b"", "c": b""}


def test_the_server_says_how_long_to_wait(gcs):
    refusals = [Refusal(429, "Slow down", headers={"Retry-After": "1"})]
    gcs.put("gs://bucket/file", SMALL)
    gcs.fault_of = lambda method, path: refusals.pop() if refusals else None
    start = time.monotonic()
    assert storage.read_bytes("gs://bucket/file") == SMALL
    assert time.monotonic() - start >= 1


OPERATIONS = {
    "read": lambda: storage.read_bytes("gs://bucket/file"),
    "list": lambda: storage.list_files("gs://bucket"),
    "write": lambda: write("gs://bucket/new", SMALL),
    "upload": lambda: write("gs://bucket/large", LARGE),
    "delete": lambda: storage.remove("gs://bucket/file"),
    "rename": lambda: storage.rename("gs://bucket/file", "gs://bucket/other"),
}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("fault", ["refuse", "cut before", "stall"])
def test_an_outage_is_told_of_in_one_line_and_ends_in_time(gcs, impatient, caplog, operation, fault):
    gcs.put("gs://bucket/file", SMALL)
    gcs.fault_of = lambda method, path: fault
    start = time.monotonic()
    with caplog.at_level(logging.WARNING), pytest.raises(UnavailableError, match="gs://bucket"):
        OPERATIONS[operation]()
    assert time.monotonic() - start < 4  # a busy machine
    (line,) = caplog.messages
    assert re.match(r"gs://bucket: no answer for 0 s( \(.+\))?\. Trying again for up to \d s", line)


def test_a_download_that_stops_halfway_is_told_of_too(gcs, impatient, caplog):
    gcs.put("gs://bucket/file", LARGE)
    gcs.fault_of = lambda method, path: "stall within" if "alt=media" in path else None
    with caplog.at_level(logging.WARNING), pytest.raises(UnavailableError):
        storage.read_bytes("gs://bucket/file")
    assert "gs://bucket: no answer for" in caplog.text


def test_all_waits_count_together(gcs, impatient, monkeypatch):
    gcs.put("gs://bucket/file", SMALL)
    storage.read_bytes("gs://bucket/file")
    gcs.fault_of = lambda method, path: "refuse"
    start = time.monotonic()
    for operation in OPERATIONS.values():
        with pytest.raises(UnavailableError):
            operation()
    assert 1 <= time.monotonic() - start < 4
    storage.restart_patience()
    start = time.monotonic()
    with pytest.raises(UnavailableError):
        write("gs://bucket/new", SMALL)
    assert time.monotonic() - start < 0.9
    # Once the bucket answers, the next outage has the whole time again.
    gcs.fault_of = lambda method, path: None
    assert storage.read_bytes("gs://bucket/file") == SMALL
    faults = ["refuse"] * 2
    gcs.fault_of = lambda method, path: faults.pop() if faults else None
    assert write("gs://bucket/new", SMALL)
    assert not faults


def test_a_read_after_writes_in_vain_waits_no_longer_for_the_same_outage(gcs, impatient):
    gcs.put("gs://bucket/file", SMALL)
    storage.read_bytes("gs://bucket/file")
    gcs.fault_of = lambda method, path: "refuse"
    start = time.monotonic()
    with pytest.raises(UnavailableError):
        write("gs://bucket/new", SMALL)
    with pytest.raises(UnavailableError):
        storage.read_bytes("gs://bucket/file")
    assert 1 <= time.monotonic() - start < 1.8


def test_a_read_has_its_own_time_if_reads_were_answered_while_writes_were_not(gcs, impatient):
    gcs.put("gs://bucket/file", SMALL)
    gcs.fault_of = lambda method, path: "refuse" if method != "GET" else None
    with pytest.raises(UnavailableError):
        write("gs://bucket/new", SMALL)
    assert storage.read_bytes("gs://bucket/file") == SMALL
    gcs.fault_of = lambda method, path: "refuse"
    start = time.monotonic()
    with pytest.raises(UnavailableError):
        storage.read_bytes("gs://bucket/file")
    assert time.monotonic() - start >= 0.9


def test_the_last_upload_has_the_whole_time_if_only_uploads_have_waited(gcs, impatient):
    gcs.put("gs://bucket/file", SMALL)
    gcs.fault_of = lambda method, path: "refuse"
    for seconds in (1.0, 0.0, 1.0):
        if seconds:
            storage.restart_patience()
        start = time.monotonic()
        with pytest.raises(UnavailableError):
            write("gs://bucket/new", SMALL)
        assert seconds * 0.9 <= time.monotonic() - start < seconds + 0.9


def test_an_interruption_is_no_answer(gcs, impatient):
    interrupted: list[bool] = []

    def interrupt() -> None:
        interrupted.append(True)
        raise KeyboardInterrupt if len(interrupted) > 3 else ConnectionError

    patience = connect().patience
    with pytest.raises(KeyboardInterrupt):
        patience.retry(interrupt, subject="gs://bucket", is_write=True)()
    assert patience._silent_since


def test_credentials_that_cannot_be_fetched_at_the_moment_are_fetched_again(gcs):
    failures = [RefreshError("unavailable", retryable=True), RefreshError("no metadata server")]
    failures[1].__cause__ = TransportError("metadata server unavailable")

    def fetch() -> str:
        if failures:
            raise failures.pop()
        return "token"

    assert connect().patience.retry(fetch, subject="gs://bucket", is_write=False)() == "token"


def test_writes_wait_no_longer_because_reads_are_answered(gcs, impatient):
    gcs.put("gs://bucket/file", SMALL)
    gcs.fault_of = lambda method, path: "refuse" if method != "GET" else None
    start = time.monotonic()
    for number in range(5):
        assert storage.read_bytes("gs://bucket/file") == SMALL
        with pytest.raises(UnavailableError):
            write(f"gs://bucket/new-{number}", SMALL)
    assert time.monotonic() - start < 3


def test_a_pause_between_requests_is_no_outage(gcs, impatient, monkeypatch):
    gcs.put("gs://bucket/file", SMALL)
    for _ in range(2):
        faults = ["refuse", "refuse"]
        gcs.fault_of = lambda method, path: faults.pop() if faults else None  # noqa: B023
        assert storage.read_bytes("gs://bucket/file") == SMALL
        assert write("gs://bucket/new", SMALL)
        gcs.delete("gs://bucket/new")
        assert connect().patience._silent_since == {}


@pytest.mark.parametrize("form", ["{address}", "{url}/", "{url}//", "localhost:{port}"])
def test_the_emulators_address_may_lack_its_scheme_or_end_with_a_slash(gcs, monkeypatch, form):
    gcs.put("gs://bucket/file", SMALL)
    address = form.format(address=gcs.address, url=gcs.url, port=gcs.address.partition(":")[2])
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
    assert storage.read_bytes("gs://bucket/file") == SMALL
    assert write("gs://bucket/large", LARGE)


@pytest.mark.parametrize("address", ["ftp://localhost:1", "http://", "http://localhost:port", "localhost:99999", ":1"])
def test_an_emulators_address_that_is_none_is_a_mistake_of_the_user(monkeypatch, address):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
    with pytest.raises(UserError, match=f"STORAGE_EMULATOR_HOST: got {address}, expected http://HOST:PORT") as caught:
        storage.read_bytes("gs://bucket/file")
    assert not isinstance(caught.value, UnavailableError)


LONG_NAME = "a" * 900
ORGANIZATION = "Request is prohibited by organization's policy. vpcServiceControlsUniqueIdentifier: 4f1W."
BILLING = "The billing account for the owning project is disabled in state absent"
NO_SERVICE = f"{ACCOUNT} does not have serviceusage.services.use access to the Google Cloud project."


@pytest.mark.parametrize("name", ["a", LONG_NAME])
@pytest.mark.parametrize(
    ("refusal", "message"),
    [
        (Refusal(403, ORGANIZATION), rf"is refused \({re.escape(ORGANIZATION)}\)\. Correct that with the owner"),
        (Refusal(403, BILLING), rf"\({BILLING}\)"),
        (Refusal(403, NO_SERVICE), rf"lacks the permission serviceusage.services.use on project .* \({NO_SERVICE}\)"),
        (Refusal(401, "Invalid Credentials"), r"are not accepted \(Invalid Credentials\)\. Run gcloud auth"),
        (Refusal(400, "Required parameter: x"), r"the request was rejected \(Required parameter: x\)"),
        (Refusal(404, "The specified bucket does not exist."), r"there is no bucket bucket \(The specified bucket"),
    ],
)
@pytest.mark.parametrize("operation", ["read", "list", "write", "upload", "delete"])
def test_googles_own_reason_is_shown(gcs, refusal, message, name, operation):
    uri = f"gs://bucket/{name}"
    gcs.fault_of = lambda method, path: refusal
    operations = {
        "read": lambda: storage.read_bytes(uri),
        "list": lambda: storage.list_files(uri),
        "write": lambda: write(uri, SMALL),
        "upload": lambda: write(uri, LARGE),
        "delete": lambda: storage.remove(uri),
    }
    with pytest.raises(FileError, match=message) as caught:
        operations[operation]()
    assert "http://" not in str(caught.value)


def test_an_object_that_may_be_hidden_is_missing_in_googles_words(gcs):
    gcs.forbid("bucket", "storage.objects.list")
    with pytest.raises(MissingError, match=r"no such object \(No such object: bucket/file\)"):
        storage.read_bytes("gs://bucket/file")


def test_who_pays_is_asked_for_and_named_in_every_request(gcs, tmp_path, monkeypatch):
    gcs.requester_pays.add("bucket")
    gcs.put("gs://bucket/a.mid", melody([60, 62]))
    for operation in OPERATIONS.values():
        with pytest.raises(UserError, match=r"\(Bucket is a requester pays .*\)\. Pass --gcs_user_project=PROJECT"):
            operation()
    command = ["-m", "sostenuto.inspect", "gs://bucket/a.mid"]
    process = run_python(*command)
    assert process.returncode == 2
    assert "Pass --gcs_user_project=PROJECT" in process.stderr
    del gcs.requests[:]
    monkeypatch.delenv("SOSTENUTO_GCS_USER_PROJECT", raising=False)
    assert run_python(*command, "--gcs_user_project=mine").returncode == 0
    monkeypatch.setenv("SOSTENUTO_GCS_USER_PROJECT", "mine")
    gcs.put("gs://bucket/file", SMALL)
    for name in ("read", "list", "write", "upload", "rename"):
        OPERATIONS[name]()
    storage.remove("gs://bucket/other")
    with contextlib.suppress(MissingError):
        storage.read_bytes("gs://bucket/absent")
    assert gcs.requests
    assert [path for _, path in gcs.requests if "userProject=mine" not in path] == []
