"""Loads and unloads versions while the service runs."""

import logging
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from components.serve.adapters.calibrations import calibrations_of
from components.serve.adapters.catalog import Catalog
from components.serve.adapters.sources import ModelFiles, content_digest, fetched
from components.serve.engines.protocol import Engine
from components.shared.errors import UserError

logger = logging.getLogger(__name__)


class NameTakenError(UserError):
    """A version of the name is loaded, and it has other files."""


@dataclass(frozen=True)
class _Source:
    """What a version was loaded from."""

    folder: Path
    digest: str


class Versions:
    """The versions of a service. Its methods wait for the engine: call them from threads that may wait.

    Args:
        engine: loads and unloads between two steps.
        catalog: tells requests which versions there are.
        scratch: the folder for downloads and unpacked packages.
        last_request_seconds: the time that the requests of a version have to end when it shall be unloaded.
        base: where the base is; it may be in the package of the version of the start.
    """

    def __init__(
        self, engine: Engine, catalog: Catalog, scratch: Path, last_request_seconds: float, base: str = ""
    ) -> None:
        self._engine, self._catalog, self._scratch, self._base = engine, catalog, scratch, Path(base)
        self._last_request_seconds = last_request_seconds
        self._changing = threading.Lock()
        self._sources: dict[str, _Source] = {}
        self.ready: Future[None] = Future()
        """done when the versions of the start are loaded; it has the error if that fails"""

    def start(self, default: Callable[[], str], others: list[str]) -> None:
        """Load the versions of the start in a thread, after the base.

        Args:
            default: loads what reads requests that name no model, and returns its name.
            others: the sources of more versions.
        """

        def load() -> None:
            try:
                self._catalog.base_is_read(self._engine.ready.result())
                self._catalog.make_default(default())
                for source in others:
                    self.load(source)
                self.ready.set_result(None)
            except Exception as error:
                self.ready.set_exception(error)

        threading.Thread(target=load, name="versions", daemon=True).start()

    def load(self, source: str) -> str:
        """Load a version and return its name; one that is loaded already stays, even if it was about to be unloaded.

        Raises:
            NameTakenError: a version of this name with other files is loaded.
            UserError: there is no such version, or it does not fit the base.
        """
        return self.load_files(fetched(source, self._scratch))

    def load_files(self, files: ModelFiles) -> str:
        """Load a version whose files are here; see ``load``."""
        source = _Source(files.folder, content_digest(files.folder)) if files.folder else None
        with self._changing:
            if files.name in self._catalog.versions() or self._catalog.is_retired(files.name):
                self._check_that_it_is_the_same(files.name, source)
                self._catalog.take_back(files.name)
                return files.name
            if files.folder is None or source is None:
                raise UserError("neither an adapter nor a fine-tuned model", where=files.name)
            calibrations = calibrations_of(files.folder)  # before the engine has it: an unreadable one changes nothing
            reading = self._engine.load(files.name, files.folder).result()
            self._catalog.add(files.name, reading, calibrations)
            self._sources[files.name] = source
            logger.info("loaded %s", files.name)
            if reading.differs:
                other = ", ".join(reading.differs)
                logger.warning("%s is not read as it was evaluated, so it has no probabilities: %s", files.name, other)
            return files.name

    def unload(self, name: str) -> None:
        """Unload a version after its last request; other versions can be loaded and unloaded meanwhile.

        Raises:
            UserError: it is the base, an alias names it, its requests do not end, or somebody loads it meanwhile; it
                reads as before then.
        """
        with self._changing:
            if name in self._catalog.in_use():
                raise UserError("it is the base, the default, or has an alias", where=name, mend="move the alias first")
            if name not in self._catalog.versions():
                raise UserError("no such version is loaded", where=name)
            self._catalog.retire(name)
        ended = self._catalog.wait_for_last_request(name, self._last_request_seconds)
        with self._changing:
            if not self._catalog.is_retired(name):
                raise UserError("it was asked for again, and stays", where=name)
            try:
                if not ended:
                    seconds = f"{self._last_request_seconds:g} s"
                    raise UserError(
                        f"its requests did not end in {seconds}, and it stays", where=name, mend="try again"
                    )
                self._engine.unload(name).result()
            except BaseException:
                self._catalog.take_back(name)
                raise
            self._catalog.remove(name)
            folder = self._sources.pop(name).folder
            is_ours = folder.parent == self._scratch  # a download or an unpacked zip; others have their own place
            if is_ours and not self._base.is_relative_to(folder):  # the base is opened again by each load
                shutil.rmtree(folder, ignore_errors=True)
            logger.info("unloaded %s", name)

    def _check_that_it_is_the_same(self, name: str, source: _Source | None) -> None:
        loaded = self._sources.get(name)
        if (source.digest if source else None) != (loaded.digest if loaded else None):
            raise NameTakenError(
                "a version of this name with other files is loaded",
                where=name,
                mend="unload it first, or give the folder another name",
            )
