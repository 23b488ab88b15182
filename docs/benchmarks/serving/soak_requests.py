"""The kinds of requests of the soak, and the statuses that they must have."""

import random
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import requests
from service_process import TEXT, as_file, chat, drawn

ADMIN = {"Authorization": "Bearer an-administrators-token-of-the-soak"}
FLAGS = [
    "--max_new_tokens",
    "160",
    "--max_batch_size",
    "8",
    "--max_queued_pages",
    "32",
    "--max_pages_per_request",
    "40",
]
FLAGS += ["--max_request_bytes", "2000000", "--max_pixels_per_page", "1000000"]
WORDS = ("page", "of", "plain", "text", "number", "seven", "short", "line", "the", "last")


class Requester:
    """Sends one request of a random kind, and counts kinds and statuses."""

    def __init__(self, url: str, adapter: Path) -> None:
        self._url, self._adapter = url, adapter
        self.found: Counter[str] = Counter()
        self.unexpected: Counter[str] = Counter()
        self._loading = threading.Lock()

    def send(self, seed: int) -> None:
        """Send a request; whatever happens is counted."""
        chance = random.Random(seed)
        page = as_file(drawn(" ".join(chance.choices(WORDS, k=2)), chance.randint(150, 320), 56))
        kinds: dict[str, tuple[int, int]] = {
            **{"ocr": (30, 200), "long": (3, 200), "chat": (15, 200), "stream": (12, 200), "tiff": (5, 200)},
            **{"pdf": (5, 200), "several": (4, 200), "cancelled": (6, 0), "cancelled_stream": (5, 0)},
            **{"not_a_page": (3, 400), "broken_png": (2, 400), "broken_pdf": (2, 400), "bad_json": (2, 400)},
            **{"unknown_model": (2, 404), "too_many_bytes": (2, 413), "too_many_pixels": (2, 413)},
            **{"too_many_pages": (1, 413), "queue_full": (1, 429), "lists": (4, 200), "versions": (1, 200)},
        }
        kind = chance.choices(list(kinds), [weight for weight, _ in kinds.values()])[0]
        try:
            status = getattr(self, f"_{kind}")(page)
        except Exception as error:
            status = type(error).__name__
        self.found[f"{kind} {status}"] += 1
        if status != kinds[kind][1]:
            self.unexpected[f"{kind} {status}"] += 1

    def _send(self, *files: bytes, **fields: str) -> int:
        parts = [("file", (f"{number}.bin", content)) for number, content in enumerate(files)]
        return requests.post(f"{self._url}/v1/ocr", files=parts, data=fields, timeout=300).status_code

    def _ask(self, body: Any) -> int:
        return requests.post(f"{self._url}/v1/chat/completions", json=body, timeout=300).status_code

    def _ocr(self, page: bytes) -> int:
        return self._send(page)

    def _long(self, page: bytes) -> int:
        return self._send(as_file(drawn(TEXT)))

    def _several(self, page: bytes) -> int:
        return self._send(page, page, page)

    def _tiff(self, page: bytes) -> int:
        return self._send(as_file(*[drawn(word, 160, 56) for word in ("one", "two")], kind="TIFF"))

    def _pdf(self, page: bytes) -> int:
        return self._send(as_file(*[drawn(word, 100, 40) for word in ("one", "two")], kind="PDF"))

    def _chat(self, page: bytes) -> int:
        return self._ask(chat(page))

    def _stream(self, page: bytes) -> int:
        body = chat(page, page, stream=True)
        with requests.post(f"{self._url}/v1/chat/completions", json=body, stream=True, timeout=300) as answer:
            lines = [line for line in answer.iter_lines() if line]
        return answer.status_code if lines[-1] == b"data: [DONE]" else -1

    def _cancelled(self, page: bytes) -> int:
        try:
            files = {"file": ("page.png", as_file(drawn(TEXT)))}
            requests.post(f"{self._url}/v1/ocr", files=files, timeout=(60, 0.2))
        except requests.ReadTimeout:
            return 0
        return -1

    def _cancelled_stream(self, page: bytes) -> int:
        body = chat(as_file(drawn(TEXT)), stream=True)
        with requests.post(f"{self._url}/v1/chat/completions", json=body, stream=True, timeout=300) as answer:
            next(answer.iter_lines())
        return 0

    def _not_a_page(self, page: bytes) -> int:
        return self._send(b"plain text")

    def _broken_png(self, page: bytes) -> int:
        return self._send(page[: len(page) // 2])

    def _broken_pdf(self, page: bytes) -> int:
        return self._send(b"%PDF-1.7 and no more")

    def _bad_json(self, page: bytes) -> int:
        return self._ask({"messages": "none"})

    def _unknown_model(self, page: bytes) -> int:
        return self._send(page, model="none")

    def _too_many_bytes(self, page: bytes) -> int:
        return self._send(bytes(2_100_000))

    def _too_many_pixels(self, page: bytes) -> int:
        return self._send(as_file(drawn("large", 1200, 1200)))

    def _too_many_pages(self, page: bytes) -> int:
        return self._send(as_file(*[drawn("x", 28, 28)] * 41, kind="TIFF"))

    def _queue_full(self, page: bytes) -> int:
        return self._send(as_file(*[drawn("x", 28, 28)] * 33, kind="TIFF"))

    def _lists(self, page: bytes) -> int:
        found = [requests.get(self._url + path, timeout=60) for path in ("/v1/models", "/metrics", "/health/ready")]
        return max(answer.status_code for answer in found)

    def _versions(self, page: bytes) -> int:
        """Load an adapter, read with it, and unload it."""
        with self._loading:
            models = f"{self._url}/admin/models"
            loaded = requests.post(models, json={"source": str(self._adapter)}, headers=ADMIN, timeout=300)
            name = loaded.json()["version"]
            read = self._send(page, model=name)
            gone = requests.delete(f"{models}/{name}", headers=ADMIN, timeout=300)
            return max(loaded.status_code, read, gone.status_code)
