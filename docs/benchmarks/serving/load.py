"""Load from this process on a service in another: clients that never pause, and arrivals at random times.

Locust is not used: its users wait for an answer before their next request (a closed loop), so that a slow service gets
less load and its latencies look better. Here the arrivals are a Poisson process that does not look at the answers.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import requests
from service_process import chat

_SECONDS_TO_FILL = 5.0  # a batch is not full at first; rates are counted from then on
PERCENTS = (50, 95, 99)


@dataclass(frozen=True)
class Answer:
    """What a request came to: ``status`` is 200, another HTTP status, or an error's name.

    Attributes:
        started, ended: ``time.perf_counter()``; ``started`` is when the request was due, not when a thread was free.
        engine_seconds: the sum of the engine's phases of its page.
    """

    status: int | str
    started: float
    ended: float
    tokens: int = 0
    text: str = ""
    engine_seconds: float = 0.0
    number: int = 0

    @property
    def seconds(self) -> float:
        """The latency that the client saw."""
        return self.ended - self.started


@dataclass
class _Answers:
    """Collects answers of several threads."""

    found: list[Answer] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, answer: Answer) -> None:
        with self.lock:
            self.found.append(answer)


def reader(url: str, pages: list[bytes], **wishes: Any) -> Callable[[int, float], Answer]:
    """Return what sends request ``number``, due at ``started``, with one of the pages, and never raises."""
    bodies = [chat(page, **wishes) for page in pages]

    def send(number: int, started: float) -> Answer:
        try:
            body = bodies[number % len(bodies)]
            response = requests.post(f"{url}/v1/chat/completions", json=body, timeout=600)
            ended = time.perf_counter()
            if response.status_code != 200:
                return Answer(response.status_code, started, ended, number=number)
            content = response.json()
        except requests.RequestException as error:
            return Answer(type(error).__name__, started, time.perf_counter(), number=number)
        engine = sum(content["deepsynth"]["pages"][0]["seconds"].values())
        message, usage = content["choices"][0]["message"]["content"], content["usage"]["completion_tokens"]
        return Answer(200, started, ended, usage, message, engine, number)

    return send


def saturated(send: Callable[[int, float], Answer], clients: int, seconds: float, batch: int) -> dict[str, Any]:
    """Let clients send one request after the other, and return the rate once the batches are full.

    Args:
        batch: pages that the service reads at once; the rate is that of whole batches (``whole_batches_rate``).
    """
    answers, numbers, lock = _Answers(), iter(range(1 << 30)), threading.Lock()
    started = time.perf_counter()
    deadline = started + _SECONDS_TO_FILL + seconds

    def client() -> None:
        while (now := time.perf_counter()) < deadline:
            with lock:
                number = next(numbers)
            answers.add(send(number, now))

    with ThreadPoolExecutor(clients) as pool:
        for one in [pool.submit(client) for _ in range(clients)]:
            one.result()
    wall = time.perf_counter() - started
    counted = [answer for answer in answers.found if deadline - seconds <= answer.ended <= deadline]
    good = [answer for answer in counted if answer.status == 200]
    tokens = sum(answer.tokens for answer in good)
    rate = whole_batches_rate([answer.ended for answer in good], batch)
    return {
        "clients": clients,
        "seconds": seconds,
        "pages": len(good),
        "pages_per_second": round(rate, 3),
        "pages_per_second_of_the_window": round(len(good) / seconds, 3),
        "tokens_per_second": round(rate * tokens / max(1, len(good)), 1),
        "tokens_per_page": round(tokens / max(1, len(good)), 1),
        "different_texts": len({answer.text for answer in answers.found if answer.status == 200}),
        "pages_per_second_with_start_and_end": round(len(answers.found) / wall, 3),
        **percentiles(answers.found),
    }


def whole_batches_rate(ends: list[float], batch: int) -> float:
    """Return pages per second from the moments at which pages ended, without counting a part of a batch.

    Pages of one length end together, so a window of fixed seconds counts a batch more or less, by chance. Here the
    window reaches from a page to the one that came a whole number of batches later, and its length is the mean over
    the pages of a batch: exact for batches that end together, and for pages that end one by one. 0 if fewer than two
    batches ended.
    """
    ends = sorted(ends)
    whole = (len(ends) - 1) // batch * batch
    if not whole:
        return 0.0
    lengths = [later - earlier for earlier, later in zip(ends, ends[whole:], strict=False)]
    return whole / (sum(lengths) / len(lengths))


def open_loop(send: Callable[[int, float], Answer], rate: float, seconds: float, seed: int = 0) -> dict[str, Any]:
    """Send requests at the times of a Poisson process, whatever the service does, and return the latencies.

    The process is the one with exactly ``rate * seconds`` arrivals: given their number, they are uniform. Left to
    chance, 94 came instead of 112.
    """
    chance, answers = random.Random(seed), _Answers()
    dues = sorted(chance.uniform(0, seconds) for _ in range(round(rate * seconds)))
    started = time.perf_counter()
    with ThreadPoolExecutor(max(1, len(dues))) as pool:
        for number, due in enumerate(dues):
            time.sleep(max(0.0, started + due - time.perf_counter()))
            pool.submit(lambda number=number, due=due: answers.add(send(number, started + due)))
    return {
        "seconds": seconds,
        "requests": len(dues),
        "per_second_offered": round(rate, 3),
        "per_second_sent": round(len(dues) / seconds, 3),
        **percentiles(answers.found),
    }


def one_by_one(send: Callable[[int, float], Answer], seconds: float) -> list[Answer]:
    """Send requests one after the other for so long, and return their answers."""
    answers, deadline = [], time.perf_counter() + seconds
    while not answers or time.perf_counter() < deadline:
        answers.append(send(len(answers), time.perf_counter()))
    return answers


def percentiles(answers: list[Answer]) -> dict[str, Any]:
    """Return percentiles of those that were read (nearest rank), and what the others were answered."""
    seconds = sorted(answer.seconds for answer in answers if answer.status == 200)
    others = Counter(str(answer.status) for answer in answers if answer.status != 200)
    found: dict[str, Any] = {"answered": len(seconds), "failed": sum(others.values()), "failures": dict(others)}
    for percent in PERCENTS:
        rank = -(-len(seconds) * percent // 100) - 1
        found[f"p{percent}_seconds"] = round(seconds[rank], 4) if seconds else None
    return found
