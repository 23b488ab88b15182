"""Clients that never pause, and what each of their requests came to."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import requests
from service_process import as_file, drawn

PAGE = as_file(drawn("a page of text", 300, 56))
BOUND = 900.0  # seconds for a condition to come true


class Ended(NamedTuple):
    """A request's end: when (``time.monotonic()``), the HTTP status or the error's name, the version, the text."""

    at: float
    outcome: str
    version: str
    text: str

    @property
    def read(self) -> bool:
        """Whether the page was read."""
        return self.outcome == "200"


class Clients:
    """Threads that read the same page again and again; ``ended`` has what each request came to, and when."""

    def __init__(self, url: str, number: int, model: str | None = None) -> None:
        self._url, self._fields = url, {"model": model} if model else {}
        self._stop, self._lock = threading.Event(), threading.Lock()
        self.begun = 0
        self.ended: list[Ended] = []
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(number)]

    def __enter__(self) -> "Clients":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            with self._lock:
                self.begun += 1
            outcome, version, text = "none", "", ""
            try:
                answer = requests.post(
                    f"{self._url}/v1/ocr", files={"file": PAGE}, data=self._fields, timeout=(10, BOUND)
                )
                outcome = str(answer.status_code)
                if answer.status_code == 200:
                    version, text = answer.json()["model"], answer.json()["pages"][0]["text"]
            except requests.RequestException as error:
                outcome = type(error).__name__
                time.sleep(0.05)
            finally:
                with self._lock:
                    self.ended.append(Ended(time.monotonic(), outcome, version, text))

    def wait_for(self, good: Callable[[Ended], bool], after: float) -> float:
        """Return when the first request ended, after ``after``, that is ``good``."""
        deadline = time.monotonic() + BOUND
        while time.monotonic() < deadline:
            for entry in list(self.ended):
                if entry.at > after and good(entry):
                    return entry.at
            time.sleep(0.02)
        raise TimeoutError("nothing came within the bound")

    def figures(self) -> dict[str, Any]:
        """Return the numbers of requests by outcome; call it when the clients have ended."""
        outcomes = Counter(outcome for _, outcome, *_ in self.ended)
        lost = self.begun - len(self.ended) + outcomes.pop("none", 0)
        return {"requests": self.begun, "outcomes": dict(outcomes), "lost": lost}
