"""The bundled base behind LitServe: in windows, or in its loop for continuous batching.

python docs/benchmarks/serving/alternatives/lit_server.py PORT windows|continuous generate|rows ROWS WAIT_SECONDS
"""

import base64
import sys
import threading
from typing import Any

import litserve
from litserve.loops import ContinuousBatchingLoop, Output
from litserve.utils import LitAPIStatus
from windows import Rows, WindowReader


class Windows(litserve.LitAPI):
    """LitServe collects a batch, calls ``predict``, and collects the next."""

    def __init__(self, decoding: str, rows: int, wait_seconds: float) -> None:
        super().__init__(max_batch_size=rows, batch_timeout=wait_seconds)
        self._settings = decoding, rows

    def setup(self, device: Any) -> None:
        """Load the model, in the worker's process."""
        self._reader = WindowReader(*self._settings)

    def decode_request(self, request: dict[str, str]) -> bytes:
        """Return the page's file."""
        return base64.b64decode(request["page"])

    def batch(self, inputs: list[bytes]) -> list[bytes]:
        """Keep the pages as they are: they have different sizes."""
        return inputs

    def predict(self, x: Any) -> Any:
        """Read a batch; a batch of one comes as a page."""
        return self._reader.read(x) if isinstance(x, list) else self._reader.read([x])[0]

    def unbatch(self, output: list[str]) -> list[str]:
        """Return each page's text."""
        return output

    def encode_response(self, output: str) -> dict[str, str]:
        """Return the answer."""
        return {"text": output}


class Continuous(litserve.LitAPI):
    """LitServe's loop calls ``add_request`` and ``step``; what they do is the engine's."""

    def __init__(self, rows: int) -> None:
        super().__init__(max_batch_size=rows, stream=True, loop=ContinuousBatchingLoop(max_sequence_length=512))
        self._most = rows
        self._entering: list[tuple[str, bytes]] = []

    def setup(self, device: Any) -> None:
        """Load the model; the loop adds requests in another thread than it steps in."""
        self._rows, self._lock = Rows(self._most), threading.Lock()

    def decode_request(self, request: dict[str, str]) -> dict[str, str]:
        """Leave the request as it is: this loop does not call it."""
        return request

    def add_request(self, uid: str, request: dict[str, str]) -> None:
        """Take a page, which enters with the next step."""
        with self._lock:
            self._entering.append((uid, base64.b64decode(request["page"])))

    def has_capacity(self) -> bool:
        """Return whether a row is free."""
        return len(self._rows) + len(self._entering) < self._most

    def has_active_requests(self) -> bool:
        """Return whether there is anything to do."""
        return bool(len(self._rows) or self._entering)

    def step(self, previous: Any) -> list[Output]:
        """Let pages enter, and write a token for each; only whole texts are sent, which costs the loop least."""
        with self._lock:
            names, files = [uid for uid, _ in self._entering], [file for _, file in self._entering]
            if names:
                self._rows.enter(names, files)
            self._entering.clear()
        ended = self._rows.step()
        outputs = [Output(uid, text, LitAPIStatus.OK) for uid, text in ended]
        outputs += [Output(uid, "", LitAPIStatus.FINISH_STREAMING) for uid, _ in ended]
        # Without an output the loop sleeps 10 ms, so one page gets an empty piece.
        return outputs or [Output(self._rows.names[0], "", LitAPIStatus.OK)]

    def encode_response(self, output: str) -> dict[str, str]:
        """Return a piece of the answer."""
        return {"text": output}


def main(port: str, batching: str, decoding: str, rows: str, wait_seconds: str) -> None:
    """Serve on 127.0.0.1."""
    continuous = batching == "continuous"
    api = Continuous(int(rows)) if continuous else Windows(decoding, int(rows), float(wait_seconds))
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=600)
    server.run(host="127.0.0.1", port=int(port), num_api_servers=1, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main(*sys.argv[1:])
