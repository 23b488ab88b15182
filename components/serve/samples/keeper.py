"""Keeps a share of the pages that the service reads: a bounded queue, and a thread that writes and deletes.

Nothing here delays or fails a request: what cannot be kept is counted, and logged without content.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from components.serve.adapters.catalog import Admission
from components.serve.adapters.request_shares import position_of
from components.serve.batching.page_job import PageJob
from components.serve.observability.meter import Meter
from components.serve.sample_settings import S3, SampleSettings
from components.serve.samples.audit import Audit
from components.serve.samples.objects import objects_at
from components.serve.samples.page_picture import png_of
from components.serve.samples.second_reading import SecondReader
from components.serve.samples.store import SERVICE, DeletedRequestError, SampleStore
from components.serve.samples.stored_reading import Role, StoredReading
from components.serve.samples.waiting_samples import Sample, WaitingSamples
from components.shared.errors import UserError

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_EXPIRIES = 3600.0
_SECONDS_TO_FINISH = 10.0  # after the last request


class SampleKeeper:
    """The samples of a running service; ``offer`` is called in the HTTP loop, ``delete`` in threads that may wait.

    Args:
        second: reads the canary's pages a second time; None: there is no canary.
    """

    def __init__(self, settings: SampleSettings, meter: Meter, second: SecondReader | None = None) -> None:
        assert settings.store and settings.audit_file and settings.retention_days
        self._settings, self._meter, self._second = settings, meter, second
        self._days: float = settings.retention_days
        self._audit = Audit(settings.audit_file)
        self._store: SampleStore | None = None
        self._waiting = WaitingSamples(settings.max_queued_pages)
        self._using_store = threading.Lock()
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="samples", daemon=True)

    def start(self) -> None:
        """Check what is on this machine, and start the thread, which deletes what is too old first.

        Raises:
            UserError: the audit file or the store's folder cannot be written.
        """
        self._audit.check()
        place = self._settings.store or ""
        if not place.startswith(S3):
            try:
                Path(place).expanduser().mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                problem = f"pages cannot be stored there ({error.strerror or error})"
                raise UserError(problem, where=place, mend="name another samples.store") from error
        self._thread.start()
        if self._second is not None:
            self._second.start(self.put)

    def offer(self, request_id: str, jobs: Sequence[PageJob], admitted: Admission, max_new_tokens: int | None) -> None:
        """Keep the pages of an answered request, if its id is in the share and every page was read.

        Args:
            max_new_tokens: the longest answer that the client asked for; None: it did not say.
        """
        if position_of(request_id) >= self._settings.share or any(job.result.exception() for job in jobs):
            return
        role: Role = "challenger" if admitted.other else "answer"
        now = datetime.now(UTC)
        samples = [
            Sample(
                request_id=request_id,
                number=number,
                role=role,
                image=job.image,
                reading=job.result.result(),
                instruction=job.instruction,
                max_new_tokens=max_new_tokens,
                read_at=now,
                second_version=admitted.other,
            )
            for number, job in enumerate(jobs, start=1)
        ]
        self.put(samples)
        if admitted.other and self._second is not None:
            self._second.offer(samples)

    def put(self, samples: Sequence[Sample]) -> None:
        """Queue pages to be stored; all or none of them."""
        if not self._waiting.put(samples):
            self._meter.sampled("dropped", len(samples))

    def delete(self, request_id: str, who: str) -> int:
        """Delete a request's samples, also those that wait or come later; return how many were stored.

        Raises:
            OSError: the store or the audit file fails.
        """
        with self._using_store:
            removed = self._opened().delete(request_id, who)
        self._meter.sampled("deleted", removed)
        return removed

    def stop(self) -> None:
        """Write what waits, for a bounded time, and end the thread."""
        if self._second is not None:
            self._second.stop()
        self._waiting.close()
        self._thread.join(_SECONDS_TO_FINISH)
        if self._thread.is_alive():
            logger.warning("%d pages that waited for the sample store are lost", len(self._waiting))

    def _run(self) -> None:
        between = min(_SECONDS_BETWEEN_EXPIRIES, self._days * 86_400 / 10)
        expiry = time.monotonic()
        while True:
            if time.monotonic() >= expiry:
                self._guarded(self._expire)
                expiry = time.monotonic() + between
            sample = self._waiting.take(expiry)
            if sample is not None:
                self._guarded(lambda sample=sample: self._keep(sample))  # type: ignore[misc]
            elif self._waiting.closed:
                return

    def _keep(self, sample: Sample) -> None:
        picture, sha256 = png_of(sample.image)
        reading = sample.reading
        stored = StoredReading(
            request_id=sample.request_id,
            page=sample.number,
            role=sample.role,
            stored_at=sample.read_at,
            picture_sha256=sha256,
            model=reading.model,
            own_instruction=sample.instruction is not None,
            text=reading.text,
            mean_logprob=reading.mean_logprob,
            min_logprob=reading.min_logprob,
            tokens=reading.tokens,
            truncated=reading.truncated,
            loop=reading.loop,
        )
        with self._using_store:
            try:
                self._opened().add(stored, picture)
            except DeletedRequestError:
                return
        self._meter.sampled("stored", 1)

    def _expire(self) -> None:
        with self._using_store:
            removed = self._opened().expire(self._days, SERVICE)
        self._meter.sampled("expired", removed)

    def _opened(self) -> SampleStore:
        if self._store is None:
            self._store = SampleStore(objects_at(self._settings.store or ""), self._audit)
        return self._store

    def _guarded(self, work: Callable[[], None]) -> None:
        """Do ``work``; its failure is counted, and logged once until the store works again."""
        try:
            work()
            self._failing = False
        except Exception as error:
            if not self._failing:  # the kind alone: a message may quote what was written
                number = getattr(error, "errno", None)
                logger.warning(
                    "the sample store fails: %s%s", type(error).__name__, f" (errno {number})" * bool(number)
                )
            self._failing = True
            self._meter.sampled("failed", 1)
