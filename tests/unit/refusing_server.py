"""An HTTP server that answers every request with one status: a hub or an MLflow server in trouble."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class RefusingServer:
    """Where it is, and the paths that it was asked for."""

    url: str = ""
    asked: list[str] = field(default_factory=list)


@contextmanager
def refusing_server(status: int, says: str = "no") -> Iterator[RefusingServer]:
    """Serve on a free port of 127.0.0.1; ``says`` is in the body, and in the header that the hub's clients read."""
    server = RefusingServer()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            server.asked.append(self.path)
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            content = says.encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain")
            self.send_header("X-Error-Message", says)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815

        def log_message(self, *arguments: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{http.server_address[1]}"
    threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
