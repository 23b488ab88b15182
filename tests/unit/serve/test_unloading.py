"""Versions that are unloaded while requests still have them: nothing else waits, and none is lost halfway."""

import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from components.serve.adapters.catalog import Catalog
from components.serve.adapters.versions import NameTakenError, Versions
from components.serve.batching.fair_queue import FairQueue
from components.serve.config import ServeConfig
from components.serve.engines.embedded import EmbeddedEngine
from components.serve.observability.meter import Meter
from components.shared.errors import UserError
from tests.fixtures.evaluated_package import make_package
from tests.fixtures.serving_adapters import save_adapter

BASE = "tiny-base"


@dataclass(frozen=True)
class Running:
    """An engine with the bundled base, and its versions."""

    catalog: Catalog
    versions: Callable[..., Versions]


@contextmanager
def engine_in(folder: Path) -> Iterator[Running]:
    engine = EmbeddedEngine(ServeConfig(model=BASE), BASE, FairQueue(4), Meter())
    engine.start()
    try:
        engine.ready.result()
        catalog = Catalog(BASE)
        yield Running(catalog, lambda *given: Versions(engine, catalog, folder / "scratch", *given))
    finally:
        engine.stop()


def test_a_version_whose_request_does_not_end_stays_and_can_be_unloaded_later(tmp_path: Path) -> None:
    adapter = str(save_adapter(tmp_path / "busy", 1))
    with engine_in(tmp_path) as running:
        versions, catalog = running.versions(0.01), running.catalog
        assert versions.load(adapter) == "busy"
        catalog.admit("busy", "a request")
        with pytest.raises(UserError, match="did not end"):
            versions.unload("busy")
        assert catalog.admit("busy", "another request").version == "busy"
        assert versions.load(adapter) == "busy"
        catalog.release("busy")
        catalog.release("busy")
        versions.unload("busy")
        assert catalog.versions() == [BASE]
        assert versions.load(adapter) == "busy", "the engine has let it go too"


def test_others_are_loaded_while_a_version_waits_for_its_last_request(tmp_path: Path) -> None:
    busy, other = (str(save_adapter(tmp_path / name, seed)) for seed, name in enumerate(("busy", "other")))
    with engine_in(tmp_path) as running, ThreadPoolExecutor(1) as waiting:
        versions, catalog = running.versions(3600), running.catalog
        versions.load(busy)
        catalog.admit("busy", "a request")
        unloaded = waiting.submit(versions.unload, "busy")
        while "busy" in catalog.versions():
            assert not unloaded.done()
            time.sleep(0.01)
        assert versions.load(other) == "other" and not unloaded.done()
        assert versions.load(busy) == "busy", "it is taken back"
        with pytest.raises(UserError, match="asked for again"):
            unloaded.result()
        assert catalog.admit("busy", "another request").version == "busy"


def test_a_name_stands_for_the_same_files(tmp_path: Path) -> None:
    """Folders and zips of different runs often have one name."""
    first, second = (save_adapter(tmp_path / run / "checkpoint", seed) for seed, run in enumerate(("run1", "run2")))
    copy = shutil.copytree(first, tmp_path / "copy" / "checkpoint")
    zips = [zipped(folder, tmp_path / f"zip{number}") for number, folder in enumerate((first, second))]
    with engine_in(tmp_path) as running:
        (tmp_path / "scratch").mkdir()
        versions = running.versions(60)
        assert versions.load(str(first)) == versions.load(str(copy)) == "checkpoint"
        with pytest.raises(NameTakenError, match="other files"):
            versions.load(str(second))
        versions.unload("checkpoint")
        assert versions.load(str(second)) == "checkpoint"
        assert versions.load(str(zips[0])) == "package"
        with pytest.raises(NameTakenError):
            versions.load(str(zips[1]))
        versions.unload("package")
        assert versions.load(str(zips[1])) == "package"


def test_what_was_downloaded_for_a_version_goes_with_it_unless_the_base_is_in_it(tmp_path: Path) -> None:
    first, second = (save_adapter(tmp_path / "scratch" / name, seed) for seed, name in enumerate(("first", "second")))
    (base := first / "base").mkdir()
    with engine_in(tmp_path) as running:
        versions = running.versions(60, str(base))
        for folder in (first, second):
            versions.load(str(folder))
            versions.unload(folder.name)
        assert base.is_dir() and not second.exists()
        assert versions.load(str(first)) == "first"


def zipped(adapter: Path, folder: Path) -> Path:
    """Return a package's zip of an adapter; all have one name."""
    inside = shutil.copytree(adapter, folder / "content" / "package")
    make_package(inside, BASE)
    return Path(shutil.make_archive(str(folder / "package"), "zip", folder / "content"))
