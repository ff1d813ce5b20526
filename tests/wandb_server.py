"""A Weights & Biases server that remembers what runs send: the few answers of its protocol that a client needs."""

from __future__ import annotations

import gzip
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class StoredRun:
    """What a server knows of one run."""

    lines: dict[int, str] = field(default_factory=dict)
    """Lines of its history by number."""
    summary: str = "{}"
    config: str = "{}"
    group: str | None = None
    job_type: str | None = None
    exit_code: int | None = None

    @property
    def history(self) -> list[dict[str, Any]]:
        """Rows in the order of their lines."""
        return [json.loads(self.lines[number]) for number in sorted(self.lines)]


class WandbServer(ThreadingHTTPServer):
    """Listens on a free port of this machine while it is open as a context."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.runs: dict[str, StoredRun] = {}
        self.views: list[dict[str, Any]] = []
        """Saved views of projects."""
        self.url = f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> WandbServer:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients close connections as they like."""

    def answer(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        """What a query of the GraphQL interface gets."""
        entity = {"id": "e", "name": "somebody"}
        if operation in ("Viewer", "GetDefaultEntity"):
            who = {"id": "v", "entity": "somebody", "username": "somebody", "email": "", "flags": "{}"}
            return {"viewer": {**who, "teams": {"edges": []}}}
        if operation == "RunResumeStatus":
            project = {"id": "p", "name": variables["project"], "entity": entity}
            return {"model": {**project, "bucket": self._bucket(variables["name"])}}
        if operation == "UpsertBucket":
            run = self.runs.setdefault(variables["name"], StoredRun())
            run.config = variables.get("config") or run.config
            run.group = variables.get("groupName") or run.group
            run.job_type = variables.get("jobType") or run.job_type
            project = {"id": "p", "name": variables["project"], "entity": entity}
            shown = {"displayName": variables.get("displayName"), "description": "", "sweepName": None}
            bucket = {"id": "b", "name": variables["name"], "config": "{}", "historyLineCount": 0, **shown}
            return {"upsertBucket": {"bucket": {**bucket, "project": project}, "inserted": True}}
        if operation == "UpsertView2":
            self.views.append(variables)
            return {"upsertView": {"view": {"id": "w", "name": variables["name"]}, "inserted": True}}
        if operation == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{self.url}/upload"} for name in variables["files"]]
            return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
        if operation == "ArtifactType":
            return {"project": None}
        if operation == "CreateArtifact":  # what a table is stored as; one that is there need not be uploaded
            latest = {"id": "a", "versionIndex": 0}
            sequence = {"id": "s", "latestArtifact": latest}
            return {"createArtifact": {"artifact": {"id": "a", "state": "COMMITTED", "artifactSequence": sequence}}}
        return {}

    def _bucket(self, name: str) -> dict[str, Any] | None:
        if name not in self.runs:
            return None
        run = self.runs[name]
        tail = [run.lines[max(run.lines)]] if run.lines else []
        counts = {"historyLineCount": len(run.lines), "eventsLineCount": 0, "logLineCount": 0}
        texts = {"summaryMetrics": run.summary, "config": run.config, "historyTail": json.dumps(tail)}
        rest = {"displayName": name, "eventsTail": "[]", "tags": [], "wandbConfig": '{"t": 1}'}
        return {"id": "b", "name": name, **counts, **texts, **rest}

    def stream(self, name: str, content: dict[str, Any]) -> None:
        """Takes what a run sends while it goes on."""
        run = self.runs.setdefault(name, StoredRun())
        files = content.get("files", {})
        if "wandb-history.jsonl" in files:
            part = files["wandb-history.jsonl"]
            run.lines.update(enumerate(part["content"], start=part["offset"]))
        if "wandb-summary.json" in files:
            run.summary = files["wandb-summary.json"]["content"][-1]
        if "complete" in content:
            run.exit_code = content.get("exitcode")


class _Handler(BaseHTTPRequestHandler):
    server: WandbServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _reply(self, value: dict[str, Any]) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self._reply({})

    def do_PUT(self) -> None:
        self._body()
        self._reply({})

    def do_POST(self) -> None:
        body = self._body()
        if self.path.endswith("/file_stream"):
            self.server.stream(self.path.split("/")[-2], json.loads(body))
            self._reply({"exitcode": None, "limits": {}})
        elif self.path.endswith("/graphql"):
            query = json.loads(body)
            operation = re.search(r"\b(?:query|mutation)\s+(\w+)", query["query"])
            assert operation, query
            self._reply({"data": self.server.answer(operation[1], query.get("variables") or {})})
        else:
            self._reply({})
