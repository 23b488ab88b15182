"""Follows the aliases ``champion`` and ``challenger`` of a registered model while the service runs."""

import logging
import threading
from pathlib import Path

from components.serve.adapters.catalog import CHALLENGER, Catalog
from components.serve.adapters.sources import fetched_version, version_name
from components.serve.adapters.versions import Versions
from components.serve.engines.protocol import EngineDownError
from components.serve.observability.meter import Meter
from components.shared.errors import UserError
from components.shared.tracking.model_registry import CHALLENGER as REGISTRY_CHALLENGER
from components.shared.tracking.model_registry import CHAMPION as REGISTRY_CHAMPION
from components.shared.tracking.model_registry import RegisteredAdapter, versions_of

logger = logging.getLogger(__name__)

_FOLLOWED = (REGISTRY_CHAMPION, REGISTRY_CHALLENGER)


class AliasFollower:
    """Looks at the registry regularly, and at once after ``wake``.

    An alias that moves is given to the new version when that is loaded: until then, and if it cannot be loaded, the
    earlier one reads. A rollback stays until the alias moves in the registry again.

    Args:
        name: the registered model.
        seconds: between two looks; 0: only after ``wake``.
    """

    def __init__(
        self, name: str, seconds: float, versions: Versions, catalog: Catalog, scratch: Path, meter: Meter
    ) -> None:
        self._name, self._seconds = name, seconds
        self._versions, self._catalog, self._scratch, self._meter = versions, catalog, scratch, meter
        self._seen: dict[str, int] = {}
        self._loaded: set[str] = set()
        self._wanted, self._stopping = threading.Event(), threading.Event()

    def start(self, needed: str) -> None:
        """Look once, then go on in a thread.

        Args:
            needed: the alias that the service reads with.

        Raises:
            UserError: the registry is down, or the needed alias' version cannot be loaded.
        """
        self.look(needed)
        threading.Thread(target=self._run, name="aliases", daemon=True).start()

    def wake(self) -> None:
        """Look now."""
        self._wanted.set()

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        self._wanted.set()

    def look(self, needed: str | None = None) -> None:
        """Load and name what the aliases name in the registry; what fails for one alias changes nothing for the other.

        Args:
            needed: an alias without which there is nothing to serve: its error is raised, others are logged.
        """
        try:
            found = versions_of(self._name)
        except Exception as error:
            self._not_followed(error, raised=needed is not None)
            return
        for alias in _FOLLOWED:
            holders = [version for version in found if alias in version.aliases]
            try:
                self._follow(alias, holders[0] if holders else None)
            except Exception as error:
                self._not_followed(error, raised=alias == needed)
        self._unload_unused()

    def _not_followed(self, error: Exception, raised: bool) -> None:
        """Count and log an error, whatever it is: without this thread no alias would ever be followed again."""
        if raised:
            raise error
        self._meter.failed("registry")
        traceback = None if isinstance(error, (UserError, EngineDownError)) else error
        logger.warning("an alias stays as it is: %s", error, exc_info=traceback)

    def _follow(self, alias: str, holder: RegisteredAdapter | None) -> None:
        name = f"@{alias}"
        if holder is None:
            if name == CHALLENGER and self._seen.pop(alias, None) is not None:
                self._catalog.forget(name)
            return
        if self._seen.get(alias) == holder.version:
            return
        self._loaded.add(self._versions.load_files(fetched_version(holder, self._scratch)))
        self._catalog.point(name, version_name(holder))
        self._seen[alias] = holder.version
        logger.info("%s is %s", name, holder)

    def _unload_unused(self) -> None:
        """Begin to unload versions without an alias; each waits for its last request, and nothing waits for that."""
        for name in self._loaded - self._catalog.in_use():
            if self._catalog.is_retired(name):
                continue  # an administrator unloads it: the next look tells whether it has gone
            self._loaded.discard(name)
            if name in self._catalog.versions():
                threading.Thread(target=self._unload, args=(name,), name="unloading", daemon=True).start()

    def _unload(self, name: str) -> None:
        try:
            self._versions.unload(name)
        except Exception as error:
            if name in self._catalog.versions() or self._catalog.is_retired(name):
                self._loaded.add(name)  # the next look tries again
            self._not_followed(error, raised=False)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wanted.wait(self._seconds or None)
            self._wanted.clear()
            if not self._stopping.is_set():
                self.look()
