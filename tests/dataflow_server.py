"""A small Dataflow service on loopback: creates and lists jobs, which behave as a test defines.

It implements the part of the REST API that Beam's launcher uses, with one active job per name. Beam uses REST without
encryption only for a host named localhost:

    with DataflowServer() as server:
        preprocess(config, beam_args=["--runner=DataflowRunner", f"--dataflow_endpoint={server.url}", "--no_auth", …])
        server.jobs[0]["environment"]           # what Beam sent
        server.finish(server.jobs[0], "JOB_STATE_FAILED", ["Traceback …"])

    server.on_create = function     # called with each new job, in a thread of its own
    server.on_look = function       # called with a job before each answer about it alone
    server.refuses_twins = True     # a second job of one name is a conflict, instead of an answer with the first job
"""

import json
import re
import threading
import urllib.parse
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

ACTIVE = ("JOB_STATE_PENDING", "JOB_STATE_QUEUED", "JOB_STATE_RUNNING")

_PATH = re.compile(
    r"/v1b3/projects/(?P<project>[^/]+)/locations/(?P<region>[^/]+)/jobs(/(?P<id>[^/]+))?(?P<messages>/messages)?"
)

Job = dict[str, Any]


class DataflowServer:
    """See the docstring of the module."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.messages: dict[str, list[str]] = {}
        self.requests: list[tuple[str, str]] = []
        self.on_create: Callable[[Job], None] = lambda job: None
        self.on_look: Callable[[Job], None] = lambda job: None
        self.refuses_twins = False
        self.denies = False
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        server = self

        class Handler(_Handler):
            service = server

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = False
        self.url = f"http://localhost:{self._http.server_port}"
        self._threads = [threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05})]
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        for thread in self._threads:
            thread.join()

    def add(self, name: str, state: str) -> Job:
        """Adds a job of another launcher."""
        number = len(self.jobs) + 1
        job = {
            "id": f"2026-01-01_00_00_{number:02d}-{number}",
            "name": name,
            "currentState": state,
            "createTime": f"2026-01-01T00:00:{number:02d}Z",
            "clientRequestId": f"other-{number}",
        }
        self.jobs.append(job)
        return job

    def finish(self, job: Job, state: str, messages: list[str] | None = None) -> None:
        """Ends a job, with error messages."""
        self.messages[job["id"]] = messages or []
        job["currentState"] = state

    def create(self, asked: Job) -> tuple[int, Job]:
        with self._lock:
            for job in self.jobs:
                if job["name"] == asked["name"] and job["currentState"] in ACTIVE:
                    error = {"code": 409, "status": "ALREADY_EXISTS", "message": "There is already an active job"}
                    return (409, {"error": error}) if self.refuses_twins else (200, job)
            job = self.add(asked["name"], "JOB_STATE_PENDING")
            job |= {key: asked[key] for key in ("type", "environment", "clientRequestId")}
        self._threads.append(threading.Thread(target=self.on_create, args=(job,)))
        self._threads[-1].start()
        return 200, job

    def answer(self, method: str, path: str, query: dict[str, str], body: Job) -> tuple[int, Job]:
        match = _PATH.fullmatch(path)
        if match is None:
            return 404, {"error": {"code": 404, "message": f"no such method: {method} {path}"}}
        if self.denies:
            return 403, {"error": {"code": 403, "status": "PERMISSION_DENIED", "message": "dataflow.jobs.list denied"}}
        if method == "POST":
            return self.create(body)
        if match["id"] is None:
            return 200, {"jobs": [job for job in self.jobs if query.get("name") in (None, job["name"])]}
        (job,) = (job for job in self.jobs if job["id"] == match["id"])
        if match["messages"]:
            texts = enumerate(self.messages.get(job["id"], []))
            messages = [
                {"id": str(number), "messageText": text, "messageImportance": "JOB_MESSAGE_ERROR"}
                for number, text in texts
            ]
            return 200, {"jobMessages": messages}
        self.on_look(job)
        return 200, job


class _Handler(BaseHTTPRequestHandler):
    service: DataflowServer

    def do_GET(self) -> None:
        self._answer({})

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, body: Job) -> None:
        url = urllib.parse.urlsplit(self.path)
        self.service.requests.append((self.command, url.path))
        status, answer = self.service.answer(self.command, url.path, dict(urllib.parse.parse_qsl(url.query)), body)
        # Answers lack the environment, in which enums would need other names.
        data = json.dumps({key: value for key, value in answer.items() if key != "environment"}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
