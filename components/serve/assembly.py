"""Puts a service together from its parts; imports the model's libraries."""

from pathlib import Path
from typing import get_args

from components.serve.adapters.catalog import Catalog
from components.serve.adapters.following import AliasFollower
from components.serve.adapters.sources import ModelFiles, fetched, followed_name
from components.serve.adapters.versions import Versions
from components.serve.batching.fair_queue import FairQueue
from components.serve.batching.held_memory import HeldMemory
from components.serve.config import ServeConfig
from components.serve.documents.page_opener import PageOpener
from components.serve.engines.embedded import EmbeddedEngine
from components.serve.engines.protocol import Engine
from components.serve.http.authentication import Access
from components.serve.http.service import Service
from components.serve.observability.meter import Meter
from components.serve.reading.evaluated import evaluated_reading
from components.serve.samples.keeper import SampleKeeper
from components.serve.samples.second_reading import SecondReader
from components.serve.vllm.engine import VllmEngine
from components.shared.models.model_families import family_of
from components.shared.models.model_loading import model_type_of
from components.shared.reading.no_repeat_settings import NoRepeatSettings, OfTheFamily

_SECONDS_OF_AN_ANSWER = 60.0  # for a request whose time is over to end


def assembled(config: ServeConfig, access: Access, scratch: Path, files: ModelFiles) -> Service:
    """Return a service whose engine has not started.

    Args:
        files: of ``config.model``.

    Raises:
        UserError: a setting does not fit the base or the engine, or a version of the start cannot be had.
    """
    config = _with_numbers(config)
    base = config.base_model or config.model
    name = base_name(base)
    meter = Meter()
    queue = FairQueue(config.max_queued_pages)
    engine = _engine(config, name, queue, meter, scratch, files)
    catalog = Catalog(name, config.challenger_share)
    meter.watch(queue.__len__, engine.running_pages, lambda: len(catalog.versions()))
    versions = Versions(engine, catalog, scratch, config.request_timeout_seconds + _SECONDS_OF_AN_ANSWER, base)
    follower = None
    if followed := followed_name(config.model):
        follower = AliasFollower(followed, config.registry_poll_seconds, versions, catalog, scratch, meter)
    samples = _keeper(config, queue, catalog, meter) if config.samples.store else None
    documents = PageOpener(config.document_processes, config.document_limits())
    memory = HeldMemory(config.max_uploaded_bytes, config.max_queued_pixels)
    return Service(
        config, engine, queue, catalog, versions, access, meter, documents, memory, follower, samples=samples
    )


def _keeper(config: ServeConfig, queue: FairQueue, catalog: Catalog, meter: Meter) -> SampleKeeper:
    second = SecondReader(queue, catalog, meter, config.samples.max_queued_pages) if config.challenger_share else None
    return SampleKeeper(config.samples, meter, second)


def start(service: Service, files: ModelFiles) -> None:
    """Start the engine and what opens uploads, and load the versions of the start behind the engine.

    Raises:
        UserError: samples shall be kept, and their audit file or folder cannot be written.
    """
    config, alias = service.config, service.config.model.rpartition("@")[2]
    if service.samples is not None:
        service.samples.start()
    service.documents.start()
    service.engine.start()

    def default() -> str:
        if service.follower is None:
            return service.versions.load_files(files) if files.folder else files.name
        service.follower.start(alias)
        return f"@{alias}"

    service.versions.start(default, config.adapters)


def stop(service: Service) -> None:
    """Stop what opens uploads and the engine, and write the samples that wait."""
    service.documents.close()
    service.engine.stop()
    if service.samples is not None:
        service.samples.stop()


def _engine(config: ServeConfig, name: str, queue: FairQueue, meter: Meter, scratch: Path, files: ModelFiles) -> Engine:
    if config.engine != "vllm":
        return EmbeddedEngine(config, name, queue, meter)
    versions = [files, *(fetched(source, scratch) for source in config.adapters)]
    found = [evaluated_reading(version.folder) for version in versions]
    with_rule = any(one is not None and one.no_repeat_ngrams is not None for one in found)
    return VllmEngine(config, name, queue, meter, scratch, with_rule)


def _with_numbers(config: ServeConfig) -> ServeConfig:
    """Return the config with numbers where no_repeat_ngram_size names the family's, for engine and answers alike."""
    if config.no_repeat_ngram_size not in get_args(OfTheFamily):
        return config
    base = config.base_model or config.model
    family = family_of(model_type_of(base, config.revision, config.trust_remote_code))
    rule = NoRepeatSettings.of(config.model_dump(), family)
    return config.model_copy(update={"no_repeat_ngram_size": rule.size, "no_repeat_ngram_window": rule.window})


def base_name(base_model: str) -> str:
    """Return the name under which clients ask for the base: a hub id, or a folder's name."""
    return Path(base_model).expanduser().resolve().name if Path(base_model).expanduser().is_dir() else base_model
