"""The sample store: readings, and each page's picture once.

``readings/REQUEST~TIME~PAGE~ROLE~SHA256.json`` and ``pages/SHA256.png``. A reading is written before its picture, so a
process that is killed between them leaves no picture that retention does not know.

``deleted/SHA256`` marks a request that was deleted, by the hash of its id: its readings may still come from another
process. Who deletes writes the mark first, and then looks for readings; who stores looks for the mark after it has
written. So one of the two sees the other, and no reading stays.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

from components.serve.samples.audit import Audit
from components.serve.samples.objects import Objects
from components.serve.samples.stored_reading import SampleKey, StoredReading

_READINGS, _PAGES, _DELETED = "readings", "pages", "deleted"
_FEWEST_DAYS_OF_A_MARK = 1.0  # a reading waits for minutes before it is written
_PICTURES_AT_ONCE = 16  # held in memory until the readings are listed again
SERVICE = "service"
"""who stores and expires, in the audit file"""


class DeletedRequestError(Exception):
    """The request's samples were deleted, so no more of them are kept."""


class SampleStore:
    """Stored readings and pictures. Its methods raise OSError where the store or the audit file fails.

    Several processes may use one store at the same time: the service's replicas, and the command line.
    """

    def __init__(self, objects: Objects, audit: Audit) -> None:
        self._objects, self._audit = objects, audit

    def add(self, reading: StoredReading, picture: bytes) -> bool:
        """Store a reading, and its picture unless it is there; return whether the picture was new.

        Args:
            picture: the PNG file whose SHA-256 is ``reading.picture_sha256``.

        Raises:
            DeletedRequestError: the request was deleted; nothing of the reading is kept.
        """
        mark = _mark(reading.request_id)
        if self._objects.exists(mark):
            raise DeletedRequestError
        self._audit.note(SERVICE, "store", reading.request_id)
        try:
            content = reading.model_dump_json(indent=2) + "\n"
            self._objects.put(f"{_READINGS}/{reading.key.name}", content.encode())
            place = _picture(reading.picture_sha256)
            is_new = not self._objects.exists(place)
            if is_new:
                self._objects.put(place, picture)
            if self._objects.exists(mark):
                raise DeletedRequestError
            return is_new
        except BaseException:
            # If this fails too, the audit goes on saying "store".
            self._objects.delete(f"{_READINGS}/{reading.key.name}")
            self._remove_unused([reading.picture_sha256])
            self._audit.note(SERVICE, "not stored", reading.request_id)
            raise

    def listed(self, who: str) -> list[SampleKey]:
        """Return what is stored, oldest first."""
        self._audit.note(who, "list")
        return self._keys()

    def reading(self, key: SampleKey, who: str) -> StoredReading | None:
        """Return a stored reading; None if it has been deleted.

        Raises:
            UserError: it is not a reading that this version can read.
        """
        self._audit.note(who, "read", key.request_id)
        content = self._objects.get(f"{_READINGS}/{key.name}")
        return None if content is None else StoredReading.parse(content, key.name)

    def picture(self, key: SampleKey, who: str) -> bytes | None:
        """Return a page's PNG file; None if it has been deleted."""
        self._audit.note(who, "read", key.request_id)
        return self._objects.get(_picture(key.picture))

    def delete(self, request_id: str, who: str) -> int:
        """Delete a request's readings, and the pictures that no other request shares; return how many readings.

        Readings of the request that come later, from any process, are not kept.
        """
        self._audit.note(who, "delete", request_id)
        self._objects.put(_mark(request_id), datetime.now(UTC).isoformat().encode())
        return self._remove(lambda key: key.request_id == request_id)

    def expire(self, days: float, who: str, now: datetime | None = None) -> int:
        """Delete the readings that are older than ``days``, and every picture without one; return how many readings."""
        now = now or datetime.now(UTC)
        oldest = now - timedelta(days=days)
        self._objects.remove_leftovers()
        deleted = set(self._objects.files(_DELETED))
        pictures = self._objects.files(_PAGES)  # before the readings: the reading of each is there by now

        def unwanted(key: SampleKey) -> bool:  # a process that ended while it stored may have left a deleted one
            return key.stored_at < oldest or _digest(key.request_id) in deleted

        for request_id in sorted({key.request_id for key in self._keys() if unwanted(key)}):
            self._audit.note(who, "expire", request_id)
        removed = self._remove(unwanted)
        self._remove_unused(name.removesuffix(".png") for name in pictures)
        self._forget_marks(now - timedelta(days=max(days, _FEWEST_DAYS_OF_A_MARK)))
        return removed

    def _keys(self) -> list[SampleKey]:
        keys = (SampleKey.of(name) for name in self._objects.files(_READINGS))
        return sorted((key for key in keys if key), key=lambda key: (key.stored_at, key.request_id, key.page, key.role))

    def _remove(self, unwanted: Callable[[SampleKey], bool]) -> int:
        removed = [key for key in self._keys() if unwanted(key)]
        for key in removed:
            self._objects.delete(f"{_READINGS}/{key.name}")
        self._remove_unused({key.picture for key in removed})
        return len(removed)

    def _remove_unused(self, pictures: Iterable[str]) -> None:
        """Delete the pictures without a reading.

        Another process may store a reading of one of them at this moment, and still find the picture: such a picture
        is put back.
        """
        uses = self._uses()
        unused = sorted(picture for picture in set(pictures) if not uses[picture])
        for start in range(0, len(unused), _PICTURES_AT_ONCE):
            found = ((one, self._objects.get(_picture(one))) for one in unused[start : start + _PICTURES_AT_ONCE])
            contents = {one: content for one, content in found if content is not None}  # the rest is gone
            for picture in contents:
                self._objects.delete(_picture(picture))
            uses = self._uses()
            for picture, content in contents.items():
                if uses[picture]:
                    self._objects.put(_picture(picture), content)

    def _forget_marks(self, oldest: datetime) -> None:
        for name in self._objects.files(_DELETED):
            content = self._objects.get(f"{_DELETED}/{name}")
            try:
                is_old = content is not None and datetime.fromisoformat(content.decode()) < oldest
            except (ValueError, TypeError):  # not a mark of this program; one without a time zone compares with none
                continue
            if is_old:
                self._objects.delete(f"{_DELETED}/{name}")

    def _uses(self) -> Counter[str]:
        return Counter(key.picture for key in self._keys())


def _mark(request_id: str) -> str:
    return f"{_DELETED}/{_digest(request_id)}"


def _digest(request_id: str) -> str:
    return hashlib.sha256(request_id.encode()).hexdigest()


def _picture(sha256: str) -> str:
    return f"{_PAGES}/{sha256}.png"
