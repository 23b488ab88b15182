"""Register a finished package in the MLflow model registry: by the export step, or later by ``deepsynth register``."""

import logging
from dataclasses import replace
from pathlib import Path

from components.export.lineage.lineage_schema import GateLink
from components.export.package.package_layout import CARD_FILE
from components.export.publication.finished_package import FinishedPackage, finished_package
from components.export.publication.version_description import version_description
from components.shared.artifacts.evaluation_report import CANDIDATE
from components.shared.digests import sha256_of_files
from components.shared.tracking.model_registry import (
    CHALLENGER,
    CHAMPION,
    SOURCE_DIGEST_TAG,
    RegisteredAdapter,
    champion_of,
    register,
    set_alias,
    set_tags,
    versions_of,
)

logger = logging.getLogger(__name__)

PACKAGE_TAG = "package_sha256"
CONTENT_TAG = "content_sha256"
_RUN_TAG = "pipeline_run_id"
_FIGURES = ("cer", "wer", "loop_rate", "pages")
_OF_THE_GATE = ("gate", "gate.reason")


def register_package(path: Path, name: str) -> RegisteredAdapter:
    """Register the package at ``path`` as the next version of ``name``, with the alias ``challenger``.

    If the gate promoted its adapter, the alias ``champion`` moves to it too, unless the champion is no longer the
    version that the gate compared with. A package that is already a version only gets its tags and aliases: the same
    zip, for example after an interrupted attempt, or the same files from another run, whose training and evaluation
    came from KFP's cache. Only ``lineage.json`` differs then: it names the run.

    Raises:
        RegistryUnavailableError: the registry is down, refuses the version, or is switched off.
        UserError: not a package, one that does not match its lineage, or a name that no registry allows.
    """
    with finished_package(path) as package:
        registered = _version_of(package, name)
        if registered is None:
            registered = _registered(package, name)
        else:
            logger.info("%s holds these files already: no new version, it gets the tags and aliases", registered)
            set_tags(registered, _new_tags(package))
        aliases = [CHALLENGER]
        if package.lineage.gate is not None and _takes_the_place(package.lineage.gate, registered):
            aliases.append(CHAMPION)
    for alias in aliases:
        set_alias(registered, alias)
    logger.info("%s is %s", registered, " and ".join(aliases))
    return replace(registered, aliases=tuple(aliases))


def _takes_the_place(gate: GateLink, registered: RegisteredAdapter) -> bool:
    """Return whether to move the alias champion: the gate promoted the adapter over the current champion."""
    if not gate.promoted:
        return False
    champion = champion_of(registered.name)
    model = gate.reference_model if gate.reference == CHAMPION else {}
    compared = (model.get("registered_model"), model.get("version"))
    if champion is None or champion.version == registered.version or compared == (champion.name, champion.version):
        return True
    logger.warning(
        "%s stays champion: the gate compared %s with %s; evaluate against the champion to take its place",
        champion, registered, f"{compared[0]} version {compared[1]}" if model else "the base",
    )  # fmt: skip
    return False


def _version_of(package: FinishedPackage, name: str) -> RegisteredAdapter | None:
    content = _content_sha256(package)
    for version in versions_of(name):
        zip_sha256 = version.tags.get(PACKAGE_TAG)
        if version.tags.get(CONTENT_TAG) == content or (zip_sha256 and zip_sha256 == package.archive_sha256):
            return version
    return None


def _content_sha256(package: FinishedPackage) -> str:
    """Return the digest over all files but ``lineage.json``."""
    return sha256_of_files(dict(sorted(package.lineage.package.items())))


def _new_tags(package: FinishedPackage) -> dict[str, str | int | float | None]:
    """Return the tags for a version that is there: its zip, and the run that made it, stay named."""
    tags = {key: value for key, value in version_tags(package).items() if key not in (PACKAGE_TAG, _RUN_TAG)}
    return tags | {"last_pipeline_run_id": package.lineage.pipeline_run_id}


def _registered(package: FinishedPackage, name: str) -> RegisteredAdapter:
    card = (package.folder / CARD_FILE).read_text(encoding="utf-8", errors="replace")
    return register(package.folder, name, version_tags(package), description=version_description(card))


def version_tags(package: FinishedPackage) -> dict[str, str | int | float | None]:
    """Return the version's tags: what people compare, and what programs look up. lineage.json holds everything else."""
    lineage = package.lineage
    row = next((row for row in lineage.evaluation.rows if row.name == CANDIDATE), None)
    interval = row.cer_interval if row else None
    gate = lineage.gate.tags if lineage.gate else {"gate": "not asked"}
    return {
        **{name: gate.get(name) for name in _OF_THE_GATE},
        **({name: _rounded(getattr(row, name)) for name in _FIGURES} if row else {}),
        "cer_interval": f"{interval[0]:.4g} to {interval[1]:.4g}" if interval else None,
        "base_model": lineage.base_model.base_model,
        PACKAGE_TAG: package.archive_sha256,
        CONTENT_TAG: _content_sha256(package),
        "dataset_digest": lineage.dataset.digest,
        SOURCE_DIGEST_TAG: lineage.dataset.source_digest if lineage.training.on_this_dataset else None,
        "git_commit": lineage.versions.get("git_commit"),
        _RUN_TAG: lineage.pipeline_run_id,
    }


def _rounded(figure: float | int | None) -> str | None:
    return None if figure is None else f"{figure:.4g}" if isinstance(figure, float) else str(figure)
