"""A Hugging Face hub for tests: it takes commits by the hub's own protocol and keeps their files."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Hub:
    """What arrived.

    Attributes:
        refuse: the status that every request is answered with, None for success.
        files: those of the repository as it is now.
        commits: the count of them.
    """

    url: str = ""
    refuse: int | None = None
    created: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    commits: int = 0
    tokens: set[str] = field(default_factory=set)


@contextmanager
def hub_server() -> Iterator[Hub]:
    """Serve a hub on a free port of 127.0.0.1."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert hub.refuse or "/tree/main" in self.path, self.path
            self._send(
                [{"type": "file", "path": name, "size": len(hub.files[name]), "oid": name} for name in hub.files]
            )

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self._send({} if hub.refuse else self._answer(body))

        def _send(self, answer: Any) -> None:
            hub.tokens.add(self.headers.get("Authorization", ""))
            if hub.refuse:
                answer = {"error": "no"}
            content = json.dumps(answer).encode()
            self.send_response(hub.refuse or 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _answer(self, body: bytes) -> dict[str, Any]:
            if self.path == "/api/repos/create":
                hub.created.append(json.loads(body))
                return {"url": f"{hub.url}/me/reader"}
            if self.path.startswith("/api/validate-yaml"):
                return {"errors": [], "warnings": []}
            if "/preupload/" in self.path:
                names = [file["path"] for file in json.loads(body)["files"]]
                return {"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]}
            assert "/commit/" in self.path, self.path
            hub.commits += 1
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "deletedFile":
                    del hub.files[line["value"]["path"]]
                elif line["key"] == "file":
                    hub.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return {"commitUrl": f"{hub.url}/me/reader/commit/abc", "commitOid": "abc"}

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
