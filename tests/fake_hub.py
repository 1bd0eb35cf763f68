"""A server that answers as the Hugging Face hub does where something is uploaded, and keeps what it gets."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

COMMIT = "c" * 40


@dataclass
class Repository:
    private: bool
    files: dict[str, bytes] = field(default_factory=dict)


@dataclass
class FakeHub:
    """Repositories by `models/org/name` or `datasets/org/name`; only `token` may write."""

    token: str
    repositories: dict[str, Repository] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)  # large files by their SHA-256
    requests: list[str] = field(default_factory=list)
    url: str = ""

    def answer(self, method: str, path: str, body: bytes, token: str | None) -> tuple[int, Any]:
        self.requests.append(f"{method} {path}")
        if token != self.token and not path.startswith("/store/"):
            return 401, {"error": "Invalid username or password."}
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            head = re.match(r"---\n(.*?)\n---\n", json.loads(body)["content"], re.DOTALL)
            return 200, {"errors": [], "warnings": [] if head and yaml.safe_load(head[1]) else [{"message": "empty"}]}
        if found := re.fullmatch(r"/store/(\w+)", path):
            self.stored[found[1]] = body
            return 200, {}
        if found := re.fullmatch(r"/(?:(datasets)/)?([\w-]+/[\w-]+)\.git/info/lfs/objects/batch", path):
            return 200, {"transfer": "basic", "objects": [self._place(one) for one in json.loads(body)["objects"]]}
        found = re.fullmatch(r"/api/((?:models|datasets)/[\w-]+/[\w-]+)/(preupload|commit|tree)/main.*", path)
        if not found or found[1] not in self.repositories:
            return 404, {"error": "Repository not found"}
        files = self.repositories[found[1]].files
        if found[2] == "tree":
            return 200, [{"type": "file", "oid": "a" * 40, "size": len(files[one]), "path": one} for one in files]
        if found[2] == "preupload":
            return 200, {"files": [self._mode(one["path"]) for one in json.loads(body)["files"]]}
        for line in map(json.loads, body.splitlines()):
            self._change(files, line["key"], line["value"])
        return 200, {"commitOid": COMMIT, "commitUrl": f"{self.url}/{found[1]}/commit/{COMMIT}", "success": True}

    def _create(self, wanted: dict[str, Any]) -> tuple[int, Any]:
        name = f"{wanted.get('type') or 'model'}s/{wanted['organization']}/{wanted['name']}"
        url = {"url": f"{self.url}/{name.removeprefix('models/')}"}
        if name in self.repositories:
            return 409, url | {"error": "You already created this repository"}
        self.repositories[name] = Repository(
            wanted.get("visibility") == "private" or bool(wanted.get("private")), {".gitattributes": b""}
        )
        return 200, url

    def _mode(self, path: str) -> dict[str, Any]:
        large = path.endswith((".safetensors", ".parquet"))
        return {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}

    def _place(self, one: dict[str, Any]) -> dict[str, Any]:
        return one | {"actions": {"upload": {"href": f"{self.url}/store/{one['oid']}"}}}

    def _change(self, files: dict[str, bytes], key: str, value: dict[str, Any]) -> None:
        if key == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif key == "lfsFile":
            files[value["path"]] = self.stored[value["oid"]]
        elif key == "deletedFile":
            del files[value["path"]]


@contextmanager
def fake_hub(token: str) -> Iterator[FakeHub]:
    """One that listens on this machine alone."""
    hub = FakeHub(token)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            body = self._body()
            given = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
            status, reply = hub.answer(self.command, self.path, body, given)
            data = json.dumps(reply).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        do_GET = do_POST = do_PUT = _answer

        def log_message(self, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
