"""The versions that can read, their names and aliases, and how many requests each still has."""

import threading
import time
from collections import Counter
from dataclasses import dataclass

from components.serve.adapters.calibrations import NONE, Calibrations
from components.serve.adapters.request_shares import position_of
from components.serve.reading.version_reading import VersionReading

CHAMPION = "@champion"
CHALLENGER = "@challenger"


class UnknownModelError(Exception):
    """No version has the name that a request asks for."""


@dataclass(frozen=True)
class Admission:
    """The version that reads a request.

    Attributes:
        other: the version of ``@champion`` if the request was for it and ``@challenger`` reads it; else None.
    """

    version: str
    other: str | None = None


@dataclass(frozen=True)
class Listed:
    """A name that a request can ask for, the version behind it, and when that version was loaded (seconds, Unix)."""

    name: str
    version: str
    loaded: int


class Catalog:
    """Names of versions; every method may be called from any thread.

    A request gets its version when it is admitted and keeps it, although an alias moves: ``admit`` counts the request,
    and a version with requests is not unloaded.

    Args:
        base: the base's name; it is always there.
        challenger_share: the share of the requests for the champion that the challenger reads, from 0 to 1; a hash of
            the request's id decides.
    """

    def __init__(self, base: str, challenger_share: float = 0.0) -> None:
        self._base, self._default = base, base
        self._share = challenger_share
        self._loaded = {base: int(time.time())}
        self._retiring: dict[str, int] = {}
        self._calibrations: dict[str, Calibrations] = {}
        self._readings: dict[str, VersionReading] = {}
        self._aliases: dict[str, list[str]] = {}  # the version now, and before it those that it had earlier
        self._requests: Counter[str] = Counter()
        self._changed = threading.Condition()

    def admit(self, name: str | None, request_id: str) -> Admission:
        """Return the version that reads a request for ``name``; None: the default. ``release`` it afterwards.

        Raises:
            UnknownModelError: there is no such name.
        """
        with self._changed:
            name = name or self._default
            admitted = Admission(self._version_of(name))
            if name == CHAMPION and CHALLENGER in self._aliases and position_of(request_id) < self._share:
                challenger = self._version_of(CHALLENGER)
                other = admitted.version if admitted.version != challenger else None
                admitted = Admission(challenger, other)
            self._requests[admitted.version] += 1
            return admitted

    def release(self, version: str) -> None:
        """Say that an admitted request has ended."""
        with self._changed:
            self._requests[version] -= 1
            self._changed.notify_all()

    def base_is_read(self, reading: VersionReading) -> None:
        """Say how the base's pages are read."""
        self._readings[self._base] = reading

    def add(self, version: str, reading: VersionReading, calibrations: Calibrations = NONE) -> None:
        """Let requests ask for a version that the engine has loaded.

        Args:
            reading: how its pages are read.
            calibrations: those of its package.
        """
        with self._changed:
            self._loaded[version] = int(time.time())
            self._readings[version] = reading
            self._calibrations[version] = NONE if reading.differs else calibrations

    def reading(self, version: str) -> VersionReading:
        """Return how the pages of a version are read that is loaded, or was."""
        return self._readings[version]

    def calibrations(self, version: str) -> Calibrations:
        """Return how a version's confidence was calibrated; not at all if its pages are not read as they were then."""
        return self._calibrations.get(version, NONE)

    def retire(self, version: str) -> None:
        """Take a version away from new requests; ``take_back`` or ``remove`` ends that."""
        with self._changed:
            self._retiring[version] = self._loaded.pop(version)

    def wait_for_last_request(self, version: str, seconds: float) -> bool:
        """Wait until the last request of a retired version has ended; return whether it has.

        It returns at once if the version was taken back.
        """
        with self._changed:
            return self._changed.wait_for(lambda: not self._requests[version] or version not in self._retiring, seconds)

    def take_back(self, version: str) -> bool:
        """Give a retired version back to requests; return whether it was retired."""
        with self._changed:
            if version not in self._retiring:
                return False
            self._loaded[version] = self._retiring.pop(version)
            self._changed.notify_all()
            return True

    def is_retired(self, version: str) -> bool:
        """Return whether a version is retired and neither taken back nor removed."""
        with self._changed:
            return version in self._retiring

    def remove(self, version: str) -> None:
        """Forget a retired version that the engine has unloaded."""
        with self._changed:
            del self._retiring[version]
            self._calibrations.pop(version, None)
            self._readings.pop(version, None)

    def point(self, alias: str, version: str) -> None:
        """Give the alias to a version, for all requests that come from now on.

        Raises:
            UnknownModelError: the version is not loaded.
        """
        with self._changed:
            if version not in self._loaded:
                raise UnknownModelError(version)
            earlier = [one for one in self._aliases.get(alias, []) if one != version]
            self._aliases[alias] = [*earlier, version]

    def forget(self, alias: str) -> None:
        """Remove an alias."""
        with self._changed:
            self._aliases.pop(alias, None)

    def roll_back(self, alias: str) -> str:
        """Give the alias back to the version that it had before; return that version.

        Raises:
            UnknownModelError: it had none, or that one is not loaded any more.
        """
        with self._changed:
            earlier = [one for one in self._aliases.get(alias, [])[:-1] if one in self._loaded]
            if not earlier:
                raise UnknownModelError(alias)
            self._aliases[alias] = earlier
            return earlier[-1]

    def make_default(self, name: str) -> None:
        """Choose the name for requests that give none."""
        with self._changed:
            self._default = name

    def in_use(self) -> set[str]:
        """Return the versions that have a name of their own reason to stay: base, default, aliases and their last."""
        with self._changed:
            kept = {version for versions in self._aliases.values() for version in versions[-2:]}
            return kept | {self._base, self._default}

    def versions(self) -> list[str]:
        """Return the versions that new requests can get."""
        with self._changed:
            return list(self._loaded)

    def of_alias(self, alias: str) -> str | None:
        """Return the version that has an alias now."""
        with self._changed:
            versions = self._aliases.get(alias)
            return versions[-1] if versions else None

    def listed(self) -> list[Listed]:
        """Return the base, every other version, and every alias."""
        with self._changed:
            found = [Listed(name, name, loaded) for name, loaded in self._loaded.items()]
            aliases = [(alias, versions[-1]) for alias, versions in sorted(self._aliases.items())]
            return found + [Listed(alias, of, self._loaded[of]) for alias, of in aliases if of in self._loaded]

    def _version_of(self, name: str) -> str:
        version = self._aliases[name][-1] if name in self._aliases else name
        if version not in self._loaded:
            raise UnknownModelError(name)
        return version
