"""Waiting pages: bounded for each client, first come first served within one, round robin between them."""

import threading
from collections import OrderedDict, deque
from collections.abc import Sequence

from components.serve.batching.fair_budget import FairBudget
from components.serve.batching.page_job import PageJob


class QueueFullError(Exception):
    """The queue has no room for the request's pages."""


class QueueClosedError(Exception):
    """The service is stopping and takes no more pages."""


class FairQueue:
    """Pages that wait for the engine; every method may be called from any thread.

    Each model has its own clients, and ``models`` ends with the one that a page was taken for last. Taking goes around
    the clients, one page each, so that a client with a thousand pages does not keep one with a single page waiting.
    Pages in the background are taken only while no client's page waits, one at a time.

    Args:
        max_pages: pages of one client that may wait; of all clients twice as many (``FairBudget``).
    """

    def __init__(self, max_pages: int) -> None:
        self._places = FairBudget(max_pages)
        self._pages = 0
        self._closed = False
        self._waiting: dict[str, OrderedDict[str, deque[PageJob]]] = {}
        self._background: deque[PageJob] = deque()
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return self._pages

    def put(self, jobs: Sequence[PageJob]) -> None:
        """Add a client's pages, all or none.

        Raises:
            QueueFullError: there is no room for all of them, or the client has its share.
            QueueClosedError: the service is stopping.
        """
        with self._changed:
            if self._closed:
                raise QueueClosedError
            self._admit(jobs)
            self._pages += len(jobs)
            for job in jobs:
                clients = self._waiting.setdefault(job.model, OrderedDict())
                clients.setdefault(job.client, deque()).append(job)
            self._changed.notify_all()

    def put_in_background(self, job: PageJob) -> None:
        """Add a page for which no client waits; whoever adds such pages bounds their number.

        Raises:
            QueueClosedError: the service is stopping.
        """
        with self._changed:
            if self._closed:
                raise QueueClosedError
            self._background.append(job)
            self._changed.notify_all()

    def models(self) -> list[str]:
        """Return the models that pages wait for, in the order in which it is their turn."""
        with self._changed:
            found = [model for model, clients in self._waiting.items() if clients]
            return found or [job.model for job in list(self._background)[:1]]

    def take(self, model: str, most: int) -> list[PageJob]:
        """Remove and return up to ``most`` pages for ``model``; those that nobody waits for are dropped."""
        taken: list[PageJob] = []
        with self._changed:
            clients = self._waiting.get(model, OrderedDict())
            while clients and len(taken) < most:
                client, jobs = clients.popitem(last=False)
                job = jobs.popleft()
                if jobs:
                    clients[client] = jobs  # at the end: every other client comes first
                self._leave(job)
                if job.is_wanted():
                    taken.append(job)
            if not clients:
                self._waiting.pop(model, None)
            elif taken:
                self._waiting[model] = self._waiting.pop(model)  # at the end: every other model comes first
            if not taken and not self._pages and self._background and self._background[0].model == model:
                job = self._background.popleft()
                taken += [job] if job.is_wanted() else []
        return taken

    def drop_unwanted(self) -> None:
        """Free the places of pages that nobody waits for any more."""
        with self._changed:
            self._background = deque(job for job in self._background if job.is_wanted())
            for model, clients in list(self._waiting.items()):
                for client, jobs in list(clients.items()):
                    kept = deque[PageJob]()
                    for job in jobs:
                        if job.is_wanted():
                            kept.append(job)
                        else:
                            self._leave(job)
                    clients[client] = kept
                    if not kept:
                        del clients[client]
                if not clients:
                    del self._waiting[model]

    def wait(self, seconds: float) -> None:
        """Wait until a page is there or ``wake`` is called, for ``seconds`` at most."""
        with self._changed:
            if not self._pages and not self._background:
                self._changed.wait(seconds)

    def wake(self) -> None:
        """End every ``wait``."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Refuse further pages; those that wait stay."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _admit(self, jobs: Sequence[PageJob]) -> None:
        for number, job in enumerate(jobs):
            if not self._places.take(job.client, 1):
                for admitted in jobs[:number]:
                    self._places.give_back(admitted.client, 1)
                raise QueueFullError

    def _leave(self, job: PageJob) -> None:
        self._pages -= 1
        self._places.give_back(job.client, 1)

    def fail_all(self, error: Exception) -> None:
        """Fail every waiting page."""
        for model in self.models():
            for job in self.take(model, len(self)):
                job.fail(error)
        with self._changed:
            background, self._background = self._background, deque()
        for job in background:
            job.fail(error)
