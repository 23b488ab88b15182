"""What the service asks of an engine, whatever runs the model."""

from concurrent.futures import Future
from pathlib import Path
from typing import Protocol

from components.serve.reading.version_reading import VersionReading


class EngineStoppedError(Exception):
    """The engine was stopped or has failed before the page was read."""


class EngineDownError(Exception):
    """The model's server is down for the moment; the message says why, for clients."""


class Engine(Protocol):
    """Reads the pages of a ``FairQueue``; every method may be called from any thread.

    Attributes:
        ready: done when the base model is loaded, with how its pages are read; it has the error if it cannot be loaded.
    """

    ready: "Future[VersionReading]"

    def start(self) -> None:
        """Begin to load the base model and, after that, to read pages."""

    def load(self, name: str, folder: Path) -> "Future[VersionReading]":
        """Load an adapter or a whole model under ``name``; the future has how its pages are read, or the error."""

    def unload(self, name: str) -> "Future[None]":
        """Free a version for which no page waits or is read."""

    def failure(self) -> Exception | None:
        """Return why the engine can read no more pages; None while it can."""

    def step_seconds(self) -> float:
        """Return how long what it does for pages now has kept it from everything else; 0 if nothing does."""

    def outage(self) -> str | None:
        """Return why no page can be read for the moment; None while pages are read."""

    def running_pages(self) -> int:
        """Return how many pages it has taken from the queue and not finished."""

    def stop(self) -> None:
        """Stop reading; pages that are not finished fail."""
