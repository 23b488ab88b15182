"""Checks that the package works alone: unpacked in an empty folder, its script must read a page as evaluated."""

import logging
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from components.export.config import ExportConfig
from components.export.package.fresh_environment import fresh_python
from components.export.package.inputs import PackageSources, evaluated_family, evaluated_rule
from components.shared.datasets.shard_reader import Sample
from components.shared.models.adapter_loading import load_fine_tuned, load_fine_tuned_processor
from components.shared.models.model_loading import default_device, default_dtype
from components.shared.programs.parent_watch import ending_with_parent
from components.shared.reading.transcriber import Transcriber
from components.shared.scoring.text_normalization import normalizer

logger = logging.getLogger(__name__)

_SECONDS = 1800


class PackageVerificationError(RuntimeError):
    """The package does not do what the evaluated adapter did: a fault in export, not the user's."""


@dataclass(frozen=True)
class PackageVerification:
    """The result of a successful check.

    Attributes:
        page: the key of the page that the script read.
        compared_with: ``evaluation``; or ``single_page`` if the evaluation's text differed (batching changes the last
            bits of logits, or ``max_new_tokens`` differs) and reading the page alone gave the script's text.
        normalization: how both texts were normalised before the comparison.
        text: what the script printed.
        environment: ``this Python``, or ``requirements.txt`` for a new environment with nothing else in it.
    """

    page: str
    compared_with: Literal["evaluation", "single_page"]
    normalization: str
    text: str
    environment: Literal["this Python", "requirements.txt"]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def verify_package(
    archive: Path, config: ExportConfig, sources: PackageSources, page: Sample, expected: str
) -> PackageVerification:
    """Unpack ``archive``, run its inference.py on ``page`` in its own process, and compare with ``expected``.

    The script runs as the card says, without ``--max_new_tokens``, so it stops at the package's limit. If the
    evaluation had another limit, a page can end at another place; and on a GPU the rest of a batch can change the last
    bits of a page's logits and, rarely, a character. So a text that differs is compared with a new reading of the page
    alone, at the package's limit, before it counts as a failure.

    Raises:
        PackageVerificationError: the script fails, or its text differs from the adapter's.
        UserError: ``fresh_environment``, and pip cannot install the package's requirements.
    """
    normalise = normalizer(sources.report.normalization)
    text = _run_script(archive, config, sources, page)
    environment: Literal["this Python", "requirements.txt"] = (
        "requirements.txt" if config.fresh_environment else "this Python"
    )
    if normalise(text) == normalise(expected):
        return PackageVerification(page.key, "evaluation", sources.report.normalization, text, environment)
    alone = fine_tuned_transcriber(config, sources, sources.packaged_tokens).read([page])[0].text
    if normalise(text) != normalise(alone):
        raise PackageVerificationError(
            f"the packaged script reads page {page.key} as {text!r}, the adapter as {alone!r}"
            f" (in the evaluation: {expected!r})"
        )
    logger.info("page %s: the evaluation gave another text than the page alone", page.key)
    return PackageVerification(page.key, "single_page", sources.report.normalization, text, environment)


def fine_tuned_transcriber(config: ExportConfig, sources: PackageSources, max_new_tokens: int) -> Transcriber:
    """Load the adapter as the evaluate step does."""
    device = default_device()
    source: dict[str, Any] = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
    processor = load_fine_tuned_processor(config.base_model, config.adapter_dir, **source)
    family = evaluated_family(config, sources, processor)
    return Transcriber(
        load_fine_tuned(config.base_model, config.adapter_dir, dtype=default_dtype(device), device=device, **source),
        processor,
        family,
        max_new_tokens,
        no_repeat=evaluated_rule(sources, processor, family),
        graphed=False,  # the packaged script's kernels, so that the texts are comparable character by character
    )


def _run_script(archive: Path, config: ExportConfig, sources: PackageSources, page: Sample) -> str:
    # Below the step's output: what a killed step leaves there is removed by the next one.
    with tempfile.TemporaryDirectory(prefix="verify-", dir=archive.parent) as scratch:
        picture = Path(scratch) / "page.png"
        page.image.save(picture)
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(scratch)
        folder = Path(scratch) / sources.name
        python = (
            fresh_python(folder / "requirements.txt", Path(scratch)) if config.fresh_environment else sys.executable
        )
        command = [python, "-P", "inference.py", str(picture)]  # -P: no module of the package's folder is imported
        if config.trust_remote_code:
            command.append("--trust_remote_code")
        if sources.kind == "adapter" and sources.base_is_folder and not sources.include_base:
            command += ["--base_model", str(Path(sources.base_location).absolute())]
        try:
            answer = subprocess.run(
                ending_with_parent(command),
                cwd=folder,
                env=_environment(sources),
                capture_output=True,
                timeout=_SECONDS,
                check=True,
            )
        except subprocess.CalledProcessError as error:
            last_lines = error.stderr.decode("utf-8", "replace").strip()[-2000:]
            raise PackageVerificationError(
                f"the packaged inference.py ended with {error.returncode}: {last_lines}"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise PackageVerificationError(f"the packaged inference.py took over {_SECONDS} s") from error
    return answer.stdout.decode("utf-8").removesuffix("\n")


def _environment(sources: PackageSources) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["PYTHONIOENCODING"] = "utf-8"
    if sources.kind == "model" or sources.include_base:
        environment["HF_HUB_OFFLINE"] = "1"  # such a package contains all that it needs
    return environment
