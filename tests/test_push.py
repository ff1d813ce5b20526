"""Pushing a model: what is refused, what a dry run says, and what arrives at a hub."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from small_runs import exported_model

from hybrid_ir.modeling.card import MODEL_ID
from hybrid_ir.modeling.push import main

TOKEN = "hf_" + "t" * 34
CARD = f'---\nlanguage: [en]\nlibrary_name: sentence-transformers\n---\n\n# A model\n\n`Sentence("{MODEL_ID}")`\n'


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    exported_model(folder / "model")
    (folder / "model" / "README.md").write_text(CARD)
    (folder / "config.yaml").write_text("")
    (folder / "summary.json").write_text("{}")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "step=1.ckpt").write_bytes(b"states of the optimizer")
    return folder


def push(*words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command as a process that nobody is logged in to."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING_FACE"))}
    home = {"HF_HOME": "/nonexistent", "HOME": "/nonexistent"}
    return subprocess.run(
        [sys.executable, "-m", "hybrid_ir.modeling.push", *map(str, words)],
        env={**kept, **home, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def push_here(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """The command in this process, which is offline."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(word) for word in words])
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def assert_refused(done: subprocess.CompletedProcess[str], *said: str) -> None:
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("error: ")
    for part in said:
        assert part in done.stderr


def files_of(model: Path) -> dict[str, bytes]:
    return {path.relative_to(model).as_posix(): path.read_bytes() for path in model.rglob("*") if path.is_file()}


# ---------------------------------------------------------------------------------------------------------- dry run


def test_a_dry_run_needs_no_network_and_no_login(run: Path) -> None:
    for command, folder in ((push, run), (push_here, run / "model")):
        done = command(folder, "me/retriever", "--private", "--dry-run")
        assert done.returncode == 0, done.stderr
        for name, content in files_of(run / "model").items():
            assert f"{len(content):,}  {name}\n" in done.stdout
        assert "checkpoints" not in done.stdout
        assert "me/retriever: branch main, visibility private" in done.stdout
        assert "states no licence" in done.stdout
        assert done.stdout.endswith("dry run: nothing was uploaded\n")
    licensed = push_here(run, "me/retriever", "--license", "mit", "--dry-run")
    assert "licence" not in licensed.stdout
    (run / "model" / "README.md").unlink()
    assert "no README.md" in push_here(run, "me/retriever", "--dry-run").stdout


def test_it_imports_no_torch() -> None:
    code = "import sys, hybrid_ir.modeling.push; print({'torch', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


# ----------------------------------------------------------------------------------------------------- what is refused


def test_what_is_not_to_be_published_is_refused(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = run / "model"

    def refused(*said: str) -> None:
        assert_refused(push_here(run, "me/retriever", "--dry-run"), *said)

    (model / "optimizer.pt").write_bytes(b"")
    refused("optimizer.pt: is none of the files that a model folder holds")
    (model / "optimizer.pt").unlink()

    (tmp_path / "elsewhere").write_text("private")
    (model / "LICENSE").symlink_to(tmp_path / "elsewhere")
    refused("LICENSE: is a link out of the folder")
    (model / "LICENSE").unlink()
    (model / "LICENSE").symlink_to("README.md")
    assert push_here(run, "me/retriever", "--dry-run").returncode == 0
    (model / "LICENSE").unlink()

    (model / "README.md").write_text(CARD + f"\n    HF_TOKEN={TOKEN}\n")
    done = push_here(run, "me/retriever", "--dry-run")
    assert_refused(done, f"README.md:{len(CARD.splitlines()) + 2}: has what looks like an access token")
    assert TOKEN not in done.stderr
    (model / "README.md").write_text(CARD + "my word is sesame-open-please\n")
    assert push_here(run, "me/retriever", "--dry-run").returncode == 0
    monkeypatch.setenv("HF_TOKEN", "sesame-open-please")
    refused(f"README.md:{len(CARD.splitlines()) + 1}: has what looks like an access token")

    (model / "README.md").write_text("---\nlanguage: [en\n---\n")
    refused("README.md: its front matter cannot be read")
    (model / "README.md").unlink()
    assert_refused(push_here(run, "me/retriever", "--license", "mit", "--dry-run"), "no README.md")


def test_what_is_no_finished_model_is_refused(run: Path, tmp_path: Path) -> None:
    assert_refused(push_here(tmp_path / "gone", "me/retriever"), "no such folder")
    (run / "summary.json").unlink()
    for folder in (run, run / "model"):
        assert_refused(push_here(folder, "me/retriever"), "is not complete", f"resume={run}")
    (run / "config.yaml").unlink()
    assert push_here(run / "model", "me/retriever", "--dry-run").returncode == 0  # a model that is in no run
    (run / "model" / "model.safetensors").unlink()
    assert_refused(push_here(run / "model", "me/retriever"), "holds no model")


def test_names_and_logins(run: Path) -> None:
    assert_refused(push_here(run, "me/my/retriever"), "me/my/retriever: no name of a repository")
    assert_refused(push(run, "me/retriever"), "hf auth login", "HF_TOKEN")
    assert_refused(push_here(run, "me/retriever"), "HF_HUB_OFFLINE=1")
    assert_refused(push_here(run, "me/retriever", "--message", " "), "--message", "is empty")
    # nobody listens there
    assert_refused(push(run, "me/retriever", HF_TOKEN=TOKEN, HF_ENDPOINT="http://127.0.0.1:9"), "could not be uploaded")


# ------------------------------------------------------------------------------------------------------ a small hub


class Hub(ThreadingHTTPServer):
    """The few of the hub's answers that a push needs; keeps what was asked and committed."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.existing: str | None = None
        """Visibility of a repository that is there before."""
        self.asked: dict[str, str | None] = {}
        """Path of each request, and who asked."""
        self.created: dict[str, Any] = {}
        self.commits: list[list[dict[str, Any]]] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def answer(self, path: str, body: bytes) -> tuple[int, Any]:
        match path.split("/")[2:]:
            case ["repos", "create"]:
                self.created = json.loads(body)
                if self.created["organization"] != "me":
                    return 403, {"error": "You don't have the rights to create a model under this namespace"}
                return 409 if self.existing else 200, {"url": f"{self.endpoint}/me/{self.created['name']}"}
            case ["models", "me", "retriever"]:
                private = (self.existing or self.created["visibility"]) == "private"
                return 200, {"id": "me/retriever", "private": private, "tags": [], "siblings": []}
            case ["models", "me", "retriever", "tree", _]:
                names = [".gitattributes", "model-00001-of-00002.safetensors", "pytorch_model.bin", "config.json"]
                return 200, [{"type": "file", "path": name, "size": 1, "oid": "0" * 40} for name in names]
            case ["models", "me", "retriever", "branch", _]:
                return 200, {}
            case ["validate-yaml"]:
                if ModelCard(json.loads(body)["content"]).data.license in (None, "mit"):
                    return 200, {"errors": [], "warnings": []}
                return 400, {"errors": [{"message": "license must be one of the known ones"}], "warnings": []}
            case ["models", "me", "retriever", "preupload", _]:
                names = [file["path"] for file in json.loads(body)["files"]]
                modes = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
                return 200, {"files": modes}
            case ["models", "me", "retriever", "commit", _]:
                self.commits.append([json.loads(line) for line in body.splitlines()])
                return 200, {"commitUrl": f"{self.endpoint}/me/retriever/commit/c0ffee", "commitOid": "c0ffee"}
        return 404, {"error": "not found"}


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def _answer(self) -> None:
        path = self.path.partition("?")[0]
        status, content = self.server.answer(path, self.rfile.read(int(self.headers.get("Content-Length", 0))))
        if status != 404:  # the client also asks what has nothing to do with the upload
            self.server.asked[path] = self.headers.get("Authorization")
        encoded = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)

    do_GET = do_POST = _answer

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_every_file_arrives_in_one_commit(run: Path, hub: Hub) -> None:
    words = ["--private", "--revision", "trial", "--message", "A first one", "--license", "mit"]
    done = push(run, "me/retriever", *words, HF_TOKEN=TOKEN, HF_ENDPOINT=hub.endpoint)
    assert done.returncode == 0, done.stderr
    assert f"uploaded: {hub.endpoint}/me/retriever/commit/c0ffee" in done.stdout
    assert (hub.created["organization"], hub.created["name"]) == ("me", "retriever")
    assert "private" in json.dumps(hub.created)
    assert sorted(hub.asked) == sorted([
        "/api/repos/create",
        "/api/models/me/retriever",
        "/api/models/me/retriever/branch/trial",
        "/api/validate-yaml",
        "/api/models/me/retriever/tree/trial",
        "/api/models/me/retriever/preupload/trial",
        "/api/models/me/retriever/commit/trial",
    ])  # fmt: skip
    assert set(hub.asked.values()) == {f"Bearer {TOKEN}"}
    (commit,) = hub.commits
    assert commit[0]["value"]["summary"] == "A first one"
    gone = {line["value"]["path"] for line in commit if line["key"] == "deletedFile"}
    assert gone == {"model-00001-of-00002.safetensors", "pytorch_model.bin"}  # of an earlier model
    sent = [line["value"] for line in commit if line["key"] == "file"]
    arrived = {value["path"]: base64.b64decode(value["content"]) for value in sent}
    card = ModelCard(arrived.pop("README.md").decode())
    here = files_of(run / "model")
    del here["README.md"]
    assert arrived == here
    assert card.data.license == "mit"
    assert card.text.strip() == '# A model\n\n`Sentence("me/retriever")`'
    assert (run / "model" / "README.md").read_text() == CARD  # here it stays as it was


def test_what_the_hub_refuses_is_said_in_one_line(run: Path, hub: Hub) -> None:
    access = {"HF_TOKEN": TOKEN, "HF_ENDPOINT": hub.endpoint}
    assert_refused(push(run, "others/retriever", **access), "others/retriever", "You don't have the rights")
    assert_refused(push(run, "me/retriever", "--license", "bogus", **access), "license must be one of")
    hub.existing = "public"
    assert_refused(push(run, "me/retriever", "--private", **access), "is public")
    assert not hub.commits
    assert push(run, "me/retriever", **access).returncode == 0
    assert len(hub.commits) == 1
