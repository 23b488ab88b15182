"""The service in a process of its own, and the pages that the measurements send to it."""

import base64
import io
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import requests
from PIL import Image, ImageDraw

TEXT = (
    "The quick brown fox jumps over the lazy dog and\nreads a page of plain text in a service that\n"
    "batches pages of many clients. Each line adds\nsome tokens to the answer of the model."
)
_BOUND = 900  # seconds that a loaded machine may take to import and load; vLLM takes minutes


@dataclass(frozen=True)
class Service:
    """A running service's address, process, and everything that it printed."""

    url: str
    process: subprocess.Popen
    log: Any

    def warnings(self) -> list[str]:
        """Return what it warned of."""
        return [line[:300] for line in _text_of(self.log).splitlines() if re.search(r"warn|error", line, re.IGNORECASE)]

    def metrics(self) -> dict[str, float]:
        """Return the metrics by their names with labels."""
        lines = requests.get(f"{self.url}/metrics", timeout=60).text.splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line and line[0] != "#"}


def drawn(text: str, width: int = 700, height: int = 160) -> Image.Image:
    """Return a white page with ``text``."""
    page = Image.new("L", (width, height), "white")
    ImageDraw.Draw(page).multiline_text((12, 12), text, fill="black", font_size=24)
    return page


def as_file(*pages: Image.Image, kind: str = "PNG") -> bytes:
    """Return pages as one file; TIFFs and PDFs may have several."""
    stream = io.BytesIO()
    more: dict[str, Any] = {"save_all": True, "append_images": list(pages[1:])} if len(pages) > 1 else {}
    pages[0].save(stream, format=kind, **more)
    return stream.getvalue()


def chat(*pages: bytes, **more: Any) -> dict[str, Any]:
    """Return the body of a chat completion that asks for these PNG files' text."""
    urls = [f"data:image/png;base64,{base64.b64encode(page).decode()}" for page in pages]
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {"messages": [{"role": "user", "content": parts}], **more}


@contextmanager
def running_service(
    *flags: str, command: Sequence[str] = ("-m", "components.serve"), variables: dict[str, str] | None = None
) -> Iterator[Service]:
    """Yield a service that is ready; it gets SIGTERM at the end, unless it has ended already.

    Args:
        command: what Python runs; the flags of ``components.serve`` follow it.
    """
    started = [sys.executable, *command, "--port", "0", *flags]
    environment = {**os.environ, "DEEPSYNTH_LOG": "text", **(variables or {})}
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(started, stdout=log, stderr=log, env=environment)
        try:
            deadline = time.monotonic() + _BOUND
            while not (found := re.search(r"listening on (http://\S+)", _text_of(log))):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(_text_of(log))
                time.sleep(0.1)
            while not _ready(found[1]):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(_text_of(log))
                time.sleep(0.1)
            yield Service(found[1], process, log)
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait()


def _ready(url: str) -> bool:
    try:
        return requests.get(f"{url}/health/ready", timeout=60).status_code == 200
    except requests.RequestException:
        return False  # a loaded machine: loading the model keeps Python busy


def _text_of(log: Any) -> str:
    log.seek(0)
    return str(log.read())
