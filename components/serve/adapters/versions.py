"""Loads and unloads versions while the service runs."""

import logging
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from components.serve.adapters.calibrations import calibrations_of
from components.serve.adapters.catalog import Catalog
from components.serve.adapters.sources import ModelFiles, fetched
from components.serve.engines.protocol import Engine
from components.shared.errors import UserError

logger = logging.getLogger(__name__)

_SECONDS_FOR_THE_LAST_REQUEST = 600.0


class Versions:
    """The versions of a service. Its methods wait for the engine: call them from threads that may wait.

    Args:
        engine: loads and unloads between two steps.
        catalog: tells requests which versions there are.
        scratch: the folder for downloads and unpacked packages.
    """

    def __init__(self, engine: Engine, catalog: Catalog, scratch: Path) -> None:
        self._engine, self._catalog, self._scratch = engine, catalog, scratch
        self._changing = threading.Lock()
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
                self._engine.ready.result()
                self._catalog.make_default(default())
                for source in others:
                    self.load(source)
                self.ready.set_result(None)
            except Exception as error:
                self.ready.set_exception(error)

        threading.Thread(target=load, name="versions", daemon=True).start()

    def load(self, source: str) -> str:
        """Load a version and return its name; one that is loaded already stays as it is.

        Raises:
            UserError: there is no such version, or it does not fit the base.
        """
        return self.load_files(fetched(source, self._scratch))

    def load_files(self, files: ModelFiles) -> str:
        """Load a version whose files are here; see ``load``."""
        with self._changing:
            if files.name in self._catalog.versions():
                return files.name
            if files.folder is None:
                raise UserError("neither an adapter nor a fine-tuned model", where=files.name)
            calibrations = calibrations_of(files.folder)  # before the engine has it: an unreadable one changes nothing
            self._engine.load(files.name, files.folder).result()
            self._catalog.add(files.name, calibrations)
            logger.info("loaded %s", files.name)
            return files.name

    def unload(self, name: str) -> None:
        """Unload a version after its last request.

        Raises:
            UserError: it is the base, an alias names it, or its requests do not end.
        """
        with self._changing:
            if name in self._catalog.in_use():
                raise UserError("it is the base, the default, or has an alias", where=name, mend="move the alias first")
            if name not in self._catalog.versions():
                raise UserError("no such version is loaded", where=name)
            self._unload(name)

    def _unload(self, name: str) -> None:
        if not self._catalog.retire(name, _SECONDS_FOR_THE_LAST_REQUEST):
            raise UserError("its requests do not end", where=name)
        self._engine.unload(name).result()
        shutil.rmtree(self._scratch / name, ignore_errors=True)  # a download; other versions have their own place
        logger.info("unloaded %s", name)
