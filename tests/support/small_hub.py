"""A small hub on localhost: repositories of models in memory, for the requests that huggingface_hub makes."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlparse

TOKEN = "hf_of_this_test"


class SmallHub(ThreadingHTTPServer):
    """Commits of each repository, newest last; a commit is its files."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.commits: dict[str, list[dict[str, bytes]]] = {}
        self.private: dict[str, bool] = {}
        self.gets = 0
        self.broken_after: int | None = None
        """Number of downloads after which the hub refuses."""
        self.unknown: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def files(self, name: str) -> dict[str, bytes]:
        return self.commits[name][-1]


def commit_id(name: str, number: int) -> str:
    return hashlib.sha1(f"{name} {number}".encode()).hexdigest()


@contextmanager
def small_hub() -> Iterator[SmallHub]:
    with SmallHub() as hub:
        Thread(target=hub.serve_forever, daemon=True).start()
        yield hub
        hub.shutdown()


class _Handler(BaseHTTPRequestHandler):
    server: SmallHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def answer(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def answer_json(self, value: Any) -> None:
        self.answer(200, json.dumps(value).encode(), Content_Type="application/json")

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = unquote(urlparse(self.path).path).strip("/").split("/")
        match self.command, *parts:
            case (("HEAD" | "GET"), ""):
                self.answer(200)
            case "POST", "api", "repos", "create":
                self.create(json.loads(body))
            case "POST", "api", "validate-yaml":
                self.answer_json({"errors": [], "warnings": []})
            case _, "api", "models", owner, name, *rest:
                self.of_repository(f"{owner}/{name}", rest, body)
            case (("HEAD" | "GET"), owner, name, "resolve", revision, *path):
                self.resolve(f"{owner}/{name}", revision, "/".join(path))
            case _:
                self.server.unknown.append(f"{self.command} {self.path}")
                self.answer(404)

    do_GET = do_POST = do_HEAD = handle_any

    def allowed(self, name: str) -> bool:
        if name in self.server.commits and (
            not self.server.private[name] or self.headers.get("Authorization") == f"Bearer {TOKEN}"
        ):
            return True
        self.answer(401, X_Error_Code="RepoNotFound")
        return False

    def create(self, asked: dict[str, Any]) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer(401, b'{"error": "Invalid username or password."}')
            return
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.server.commits:
            self.answer(409, json.dumps({"url": f"{self.server.address}/{name}"}).encode())
            return
        self.server.commits[name] = [{".gitattributes": b""}]
        self.server.private[name] = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.answer_json({"url": f"{self.server.address}/{name}", "name": name})

    def of_repository(self, name: str, rest: list[str], body: bytes) -> None:
        if not self.allowed(name):
            return
        commits = self.server.commits[name]
        match rest:
            case [] | ["revision", _]:
                if rest and rest[1] not in ("main", *(commit_id(name, number) for number in range(len(commits)))):
                    self.answer(404, X_Error_Code="RevisionNotFound")
                    return
                siblings = [{"rfilename": path, "size": len(content)} for path, content in commits[-1].items()]
                self.answer_json({"id": name, "sha": commit_id(name, len(commits) - 1), "siblings": siblings})
            case ["preupload", _]:
                asked = json.loads(body)["files"]
                kept = {"uploadMode": "regular", "shouldIgnore": False}
                self.answer_json({"files": [{"path": each["path"], **kept} for each in asked]})
            case ["commit", _]:
                files = dict(commits[-1])
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                commits.append(files)
                oid = commit_id(name, len(commits) - 1)
                self.answer_json(
                    {"success": True, "commitOid": oid, "commitUrl": f"{self.server.address}/{name}/commit/{oid}"}
                )
            case ["tree", _, *_]:
                entries = [
                    {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                    for path, content in commits[-1].items()
                ]
                self.answer_json(entries)
            case _:
                self.server.unknown.append(f"{self.command} {self.path}")
                self.answer(404)

    def resolve(self, name: str, revision: str, path: str) -> None:
        if not self.allowed(name):
            return
        content = self.server.files(name).get(path)
        if content is None:
            self.answer(404, X_Error_Code="EntryNotFound")
            return
        if self.command == "GET":
            self.server.gets += 1
            if self.server.broken_after is not None and self.server.gets > self.server.broken_after:
                self.answer(403)
                return
        commits = self.server.commits[name]
        self.answer(
            200, content, X_Repo_Commit=commit_id(name, len(commits) - 1), ETag=f'"{hashlib.sha1(content).hexdigest()}"'
        )
