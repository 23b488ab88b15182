"""Aliases of the registry are followed one by one: what is wrong with one does not hold the other."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.serve.adapters import following
from components.serve.adapters.catalog import Catalog
from components.serve.adapters.following import AliasFollower
from components.serve.adapters.sources import ModelFiles
from components.serve.observability.meter import Meter
from components.shared.errors import UserError
from components.shared.tracking.model_registry import RegisteredAdapter
from tests.fixtures.evaluated_package import plain_reading

REGISTERED = {"champion": 2, "challenger": 1}


class Loading:
    """Versions that load into the catalog alone, unless their files are broken."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog, self.broken = catalog, dict[str, Exception]()
        self.unloaded = list[str]()

    def load_files(self, files: ModelFiles) -> str:
        if files.name in self.broken:
            raise self.broken[files.name]
        self._catalog.add(files.name, plain_reading())
        return files.name

    def unload(self, name: str) -> None:
        self.unloaded.append(name)
        if name not in self._catalog.versions():
            raise UserError("no such version is loaded", where=name)
        if name in self.broken:
            raise self.broken[name]
        self._catalog.retire(name)
        self._catalog.remove(name)


@pytest.fixture
def following_with(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[[], tuple[Any, Loading, Catalog, Meter]]:
    def made() -> tuple[Any, Loading, Catalog, Meter]:
        catalog, meter = Catalog("base"), Meter()
        loading = Loading(catalog)
        follower = AliasFollower("reader", 0, loading, catalog, tmp_path, meter)  # type: ignore[arg-type]
        return follower, loading, catalog, meter

    def version(number: int, alias: str) -> RegisteredAdapter:
        return RegisteredAdapter(name="reader", version=number, aliases=(alias,))

    monkeypatch.setattr(following, "versions_of", lambda _: [version(n, a) for a, n in REGISTERED.items()])
    monkeypatch.setattr(following, "fetched_version", lambda one, _: ModelFiles(f"reader-{one.version}", tmp_path))
    return made


@pytest.mark.parametrize("error", [UserError("no weights", where="x"), json.JSONDecodeError("cut off", "{", 1)])
def test_a_champion_that_cannot_be_loaded_does_not_hold_the_challenger(
    following_with: Callable[[], tuple[Any, Loading, Catalog, Meter]], error: Exception
) -> None:
    follower, loading, catalog, meter = following_with()
    loading.broken["reader-2"] = error
    follower.look()
    assert catalog.of_alias("@challenger") == "reader-1" and catalog.of_alias("@champion") is None
    assert b'failures_total{reason="registry"} 1.0' in meter.text()
    loading.broken.clear()
    follower.look()
    assert catalog.of_alias("@champion") == "reader-2", "the next look tries again"


def test_the_service_starts_without_an_alias_that_it_does_not_need(
    following_with: Callable[[], tuple[Any, Loading, Catalog, Meter]],
) -> None:
    follower, loading, catalog, _ = following_with()
    loading.broken["reader-1"] = UserError("no weights", where="x")
    follower.look(needed="champion")
    assert catalog.of_alias("@champion") == "reader-2"
    follower, loading, *_ = following_with()
    loading.broken["reader-2"] = UserError("no weights", where="x")
    with pytest.raises(UserError, match="no weights"):
        follower.look(needed="champion")


def looked(follower: Any) -> None:
    """Let it look, and wait until what it unloads is unloaded."""
    follower.look()
    for thread in threading.enumerate():
        if thread.name == "unloading":
            thread.join()


def test_a_version_without_an_alias_is_unloaded_once_unless_that_fails_or_an_administrator_did_it(
    following_with: Callable[[], tuple[Any, Loading, Catalog, Meter]], monkeypatch: pytest.MonkeyPatch
) -> None:
    follower, loading, catalog, meter = following_with()
    for number in (1, 3, 4):  # an alias keeps its last version, for a rollback
        monkeypatch.setitem(REGISTERED, "challenger", number)
        if number == 4:
            catalog.retire("reader-1")
        looked(follower)
    assert loading.unloaded == [], "somebody else unloads it"
    catalog.remove("reader-1")
    looked(follower)
    looked(follower)
    assert loading.unloaded == [] and b'failures_total{reason="registry"} 0.0' in meter.text()
    loading.broken["reader-3"] = UserError("its requests did not end", where="reader-3")
    monkeypatch.setitem(REGISTERED, "challenger", 5)
    looked(follower)
    loading.broken.clear()
    looked(follower)
    looked(follower)
    assert loading.unloaded == ["reader-3"] * 2, "the look after the failed one tried again"
    assert "reader-3" not in catalog.versions()
