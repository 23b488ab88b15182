"""Pack a trained adapter:

python -m components.export --adapter_dir ADAPTER --dataset_dir DATASET --evaluation_dir EVALUATION --output_dir PACKAGE
"""

import logging
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from components.export.config import ExportConfig
from components.export.lineage.lineage_file import lineage_content
from components.export.package.example_page import example_page
from components.export.package.held_out_pages import CheckedPages, checked_pages
from components.export.package.inputs import PackageSources, read_sources
from components.export.package.merging import write_merged
from components.export.package.model_card import write_model_card
from components.export.package.package_folder import write_package_files
from components.export.package.package_layout import CARD_FILE, EXAMPLE_FILE, LINEAGE_FILE, MERGED_FOLDER, write_json
from components.export.package.verification import verify_package
from components.export.package.zip_archive import write_zip
from components.export.publication.hub_upload import (
    HubUnavailableError,
    RepositoryTakenError,
    push_package,
    required_token,
)
from components.export.publication.registration import register_package
from components.shared.artifacts.output_folder import finished_folder
from components.shared.digests import sha256_file
from components.shared.telemetry.tracing import span
from components.shared.tracking.model_registry import RegisteredAdapter, RegistryUnavailableError
from components.shared.tracking.step_run import TrackedRun, step_run

logger = logging.getLogger(__name__)

_CHECKED_PAGES = 8
# A run's folders move there when it finishes.
_AFTER_A_RUN = " (after deepsynth run: its folder is RUNS_DIR/RUN_ID/package)"


@dataclass(frozen=True)
class ExportResult:
    """The finished folder, the package in it, the content of lineage.json, and where the package was published.

    Attributes:
        registered: its version in the registry; None if not requested, or if the registry is down.
        pushed: the commit's URL on the hub; None if not requested, or if the hub refuses it.
    """

    folder: Path
    archive: Path
    lineage: dict[str, Any]
    registered: RegisteredAdapter | None = None
    pushed: str | None = None


def run(config: ExportConfig) -> ExportResult:
    """Write the package, its card and its lineage; register and upload it if requested.

    If the registry or hub cannot be reached, or the repository contains something else, a warning says how to publish
    later: the package is on disk.

    Raises:
        UserError: an input is missing, unreadable, or of another adapter or dataset; weights are truncated or NaN; the
            output folder is in use; ``push_to_hub`` without a token.
        PackageVerificationError: the package or the merged weights read a page differently from the adapter.
    """
    if config.push_to_hub:
        required_token()
    parameters = config.model_dump(mode="json", exclude={"output_dir"})
    with step_run("export", parameters) as tracked:
        result = _packed(config, tracked)
        result = replace(result, registered=_registered(config), pushed=_pushed(config))
        if result.registered:
            tracked.set_tags({"registered": str(result.registered)})
            tracked.summarize({}, {"registered": str(result.registered)})
        if result.pushed:
            tracked.set_tags({"pushed": result.pushed})
    return result


def _packed(config: ExportConfig, tracked: TrackedRun) -> ExportResult:
    with finished_folder(config.output_dir) as output:
        sources = read_sources(config)
        _say_another_length(sources)
        tracked.log_dataset(sources.manifest.digest, sources.manifest.sources_name(), "evaluation")
        with span("read the pages to check with"):
            checked = checked_pages(config, sources, _CHECKED_PAGES)
            page, prediction, _ = checked.most_telling(sources.report.normalization)
            example = example_page(page, prediction) if config.example_page else None
        with span("merge the weights"):
            merged = write_merged(config, sources, checked, output / MERGED_FOLDER) if config.merge else None
        with tempfile.TemporaryDirectory(dir=output) as scratch:
            package = Path(scratch) / sources.name
            package.mkdir()
            serving = write_package_files(config, sources, checked.instruction, example, package)
            write_model_card(config, sources, example, package / CARD_FILE, serving)
            with span("verify the package"):
                verification = _verified(package, config, sources, checked) if config.verify else None
            lineage = lineage_content(config, sources, package, verification, merged.as_json() if merged else None)
            write_json(package / LINEAGE_FILE, lineage)
            archive = output / f"{sources.name}.zip"
            write_zip(package, archive)
            beside = [CARD_FILE, *([EXAMPLE_FILE] if example else [])]
            for name in beside:
                shutil.copyfile(package / name, output / name)
        # The lineage beside the zip also names the zip's digest, which the copy inside cannot.
        lineage["archive"] = {"file": archive.name, "bytes": archive.stat().st_size, "sha256": sha256_file(archive)}
        write_json(output / LINEAGE_FILE, lineage)
        tracked.set_tags({"package_sha256": lineage["archive"]["sha256"], "adapter_sha256": sources.adapter_sha256})
        tracked.log_metrics({"package_bytes": lineage["archive"]["bytes"]})
        for name in (archive.name, *beside, LINEAGE_FILE):
            tracked.log_artifact(output / name)
    logger.info("%s: %.1f MB, verified: %s", archive.name, lineage["archive"]["bytes"] / 1e6, bool(verification))
    return ExportResult(config.output_dir, config.output_dir / archive.name, lineage)


def _say_another_length(sources: PackageSources) -> None:
    packaged, evaluated = sources.packaged_tokens, sources.evaluated_tokens
    if packaged != evaluated:
        logger.warning(
            "the packaged script writes at most %d tokens, the evaluation's answers had %d at most: the figures hold"
            " with --max_new_tokens %d; leave max_new_tokens out to package the evaluation's",
            packaged, evaluated, evaluated,
        )  # fmt: skip


def _registered(config: ExportConfig) -> RegisteredAdapter | None:
    if config.register_as is None:
        return None
    try:
        return register_package(config.output_dir, config.register_as)
    except RegistryUnavailableError as error:
        later = f"deepsynth register {config.output_dir} --as {config.register_as}{_AFTER_A_RUN}"
        logger.warning("the package is finished, but not registered: %s; later: %s", error, later)
        return None


def _pushed(config: ExportConfig) -> str | None:
    if config.push_to_hub is None:
        return None
    try:
        return push_package(config.output_dir, config.push_to_hub, public=config.hub_public)
    except (HubUnavailableError, RepositoryTakenError) as error:
        public = " --public" if config.hub_public else ""
        later = f"deepsynth push {config.output_dir} --to {config.push_to_hub}{public}{_AFTER_A_RUN}"
        logger.warning("the package is finished, but not on the hub: %s; later: %s", error, later)
        return None


def _verified(package: Path, config: ExportConfig, sources: PackageSources, checked: CheckedPages) -> dict[str, Any]:
    """Check the package as it will be, without lineage.json, which records this check."""
    trial = package.with_suffix(".trial")
    write_zip(package, trial)
    page, prediction, telling = checked.most_telling(sources.report.normalization)
    if not telling:
        logger.warning("the base reads the checked page the same way: the check cannot show that the adapter is used")
    found = verify_package(trial, config, sources, page, prediction)
    trial.unlink()
    return found.as_json() | {"base_reads_otherwise": telling}
