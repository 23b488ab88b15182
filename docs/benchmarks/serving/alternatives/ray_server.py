"""The bundled base behind Ray Serve's ``serve.batch``, which works in windows.

python docs/benchmarks/serving/alternatives/ray_server.py PORT generate|rows ROWS WAIT_SECONDS
"""

import asyncio
import base64
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray
from ray import serve
from starlette.requests import Request
from windows import WindowReader


@serve.deployment(max_ongoing_requests=1000, ray_actor_options={"num_cpus": 1})
class Windows:
    """Ray Serve collects calls of ``read`` into batches."""

    def __init__(self, decoding: str, rows: int, wait_seconds: float) -> None:
        self._reader, self._thread = WindowReader(decoding, rows), ThreadPoolExecutor(1)
        self.read.set_max_batch_size(rows)
        self.read.set_batch_wait_timeout_s(wait_seconds)

    @serve.batch(max_batch_size=16, batch_wait_timeout_s=0.05)
    async def read(self, files: list[bytes]) -> list[str]:
        """Read a batch, in a thread so that requests come in meanwhile."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._reader.read, files)

    async def __call__(self, request: Request) -> dict[str, str]:
        """Answer a request."""
        page = base64.b64decode((await request.json())["page"])
        return {"text": await self.read(page)}


def main(port: str, decoding: str, rows: str, wait_seconds: str) -> None:
    """Serve on 127.0.0.1 until SIGTERM."""
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    options: dict[str, Any] = {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    ray.init(num_cpus=2, object_store_memory=100 * 2**20, **options)
    serve.start(http_options={"host": "127.0.0.1", "port": int(port)})
    serve.run(Windows.bind(decoding, int(rows), float(wait_seconds)), route_prefix="/predict")
    ended.wait()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
