"""``deepsynth verify --vllm``: pages read by vLLM with the package's adapter, and here, and compared."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import BaseModel, ValidationError
from transformers import GenerationConfig

from components.export.package.package_layout import (
    BASE_FOLDER,
    EVIDENCE_FOLDER,
    EXAMPLE_FILE,
    MERGED_FOLDER,
)
from components.export.proof.comparison import ServedReading, ServedVerdict, verdict_of_readings
from components.export.proof.page_margins import equally_centred
from components.export.proof.page_tiles import other_tiles
from components.export.proof.server_process import running_vllm
from components.export.proof.vllm_client import VllmServer
from components.export.servable.serving_files import SERVED_FOLDER, Serving
from components.shared.artifacts.evaluation_report import EvaluationReport
from components.shared.artifacts.output_folder import scratch_folder
from components.shared.artifacts.package_files import PACKAGE_SETTINGS, json_mapping, unpack
from components.shared.errors import UserError
from components.shared.models.adapter_loading import load_fine_tuned, load_fine_tuned_processor
from components.shared.models.model_families import family_of
from components.shared.models.model_loading import default_device, default_dtype, load_model, load_processor
from components.shared.page_reader.picture_opener import PictureOpener
from components.shared.page_reader.refusal import RefusalError
from components.shared.reading.image_settings import ImageSettings, with_image_settings
from components.shared.reading.transcriber import StepByStep, Transcriber
from components.shared.vllm.served_families import SERVED_FAMILIES


@dataclass(frozen=True)
class ProofPage:
    """A page to read on both sides."""

    name: str
    image: Image.Image
    instruction: str


class _Settings(BaseModel):
    """What is needed of a package's ``inference_config.json``."""

    kind: str
    model_type: str
    base_in_package: bool
    base_model: str | None
    revision: str | None

    @classmethod
    def of(cls, folder: Path) -> "_Settings":
        path, mend = folder / PACKAGE_SETTINGS, "get the package again"
        try:
            return cls.model_validate(json_mapping(path, mend))
        except ValidationError as error:
            names = ", ".join(sorted({str(fault["loc"][0]) for fault in error.errors()}))
            raise UserError(f"not valid: {names}", where=str(path), mend=mend) from error


@dataclass(frozen=True)
class Proof:
    """Where the package is and what to read it with.

    Attributes:
        package: the zip, its unpacked folder, or the folder that export made.
        pages: pictures; none: the package's example page.
        base_model: the base's folder, if the package has none and its id is no hub's.
        served_name: the model's name on the server; None: the only adapter there, or the only model.
        max_new_tokens: of an answer.
    """

    package: Path
    pages: tuple[Path, ...] = ()
    base_model: Path | None = None
    served_name: str | None = None
    max_new_tokens: int = 64


def prove_at(proof: Proof, server: VllmServer) -> ServedVerdict:
    """Read the pages with a running server and here, and compare.

    Greedy search alone is compared: without a rule against repeated n-grams, which vLLM's API does not apply, and
    without what the base's generation_config.json asks for.

    Raises:
        UserError: the package has no files for vLLM, the server does not answer, or a page is no picture.
    """
    with _unpacked(proof.package) as folder:
        serving = Serving.read(folder)
        pages = _pages(proof, folder, serving)
        adapted, base = _served(server, proof, serving)
        # vLLM first: our model comes into memory only if there is something to compare with.
        theirs = [server.read(adapted, page.image, serving.prompt, proof.max_new_tokens) for page in pages]
        bases = (
            [server.read(base, page.image, serving.prompt, proof.max_new_tokens) for page in pages] if base else None
        )
        ours, our_bases, images = _ours(proof, folder, pages)
        sides = zip(pages, ours, theirs, our_bases, bases or our_bases, strict=True)
        return verdict_of_readings(
            [ServedReading(page.name, our, their, base, their_base) for page, our, their, base, their_base in sides],
            other_tiles(serving.vllm_class, images, {page.name: page.image.size for page in pages}),
        )


def prove_with(proof: Proof, python: Path) -> ServedVerdict:
    """Start vLLM with the interpreter ``python``, prove as ``prove_at`` does, and end it.

    Raises:
        UserError: it does not start; see also ``prove_at``.
    """
    with served_package(proof, python) as server:
        return prove_at(proof, server)


@contextmanager
def served_package(proof: Proof, python: Path) -> Iterator[VllmServer]:
    """Have vLLM serve the package, with the interpreter ``python``, while the block runs.

    Raises:
        UserError: the package has no files for vLLM, or vLLM does not start.
    """
    with _unpacked(proof.package) as folder:
        serving = Serving.read(folder)
        served = folder / SERVED_FOLDER
        dtype = str(default_dtype(default_device())).removeprefix("torch.")
        arguments = ["--dtype", dtype]
        if serving.own_config:
            arguments += ["--hf-config-path", str(served)]
        if serving.adapter:
            model, revision = _base(proof, folder)
            arguments += ["--enable-lora", "--max-lora-rank", str(serving.max_lora_rank)]
            if serving.lora_target_modules:
                arguments += ["--lora-target-modules", *serving.lora_target_modules]
            arguments += ["--lora-modules", f"adapter={served}", *(["--revision", revision] if revision else [])]
        else:
            model = str(_merged(proof.package) or folder)
        with running_vllm(python.absolute(), model, arguments) as server:
            yield server


@contextmanager
def _unpacked(package: Path) -> Iterator[Path]:
    """Give the block the folder of a package's files."""
    archive = next(iter(sorted(package.glob("*.zip"))), None) if package.is_dir() else package
    if archive is None:
        yield package.absolute()
        return
    with scratch_folder("deepsynth-proof") as scratch:
        unpack(archive, scratch)
        yield scratch


def _pages(proof: Proof, folder: Path, serving: Serving) -> list[ProofPage]:
    paths = proof.pages or ((folder / EXAMPLE_FILE,) if (folder / EXAMPLE_FILE).is_file() else ())
    if not paths:
        raise UserError("the package has no example page", where=str(proof.package), mend="give pictures with --page")
    # This project's class of the first DeepSeek-OCR centres a page as vLLM's does.
    family = SERVED_FAMILIES["deepseek_ocr2"]
    side = family.fixed_sizes[0] if family.fixed_sizes and serving.vllm_class == family.vllm_class else None
    pages, opener = [], PictureOpener()
    try:
        for path in paths:
            page = opener.picture(path, str(path))
            pages.append(ProofPage(path.name, equally_centred(page, side) if side else page, serving.prompt))
    except RefusalError as refusal:
        raise UserError(str(refusal), mend="give pictures with --page") from refusal
    finally:
        opener.close()
    return pages


def _served(server: VllmServer, proof: Proof, serving: Serving) -> tuple[str, str | None]:
    """Return the names of the adapter (or the whole model) and of its base on the server."""
    models = server.models()
    candidates = [name for name, parent in models.items() if (parent is not None) == serving.adapter]
    name = proof.served_name or (candidates[0] if len(candidates) == 1 else None)
    if name not in candidates:
        wanted = "adapter" if serving.adapter else "model"
        raise UserError(
            f"the server has {'no ' + wanted if not candidates else 'these: ' + ', '.join(candidates)}",
            where=f"{server.address}/v1/models",
            mend=f"name the package's {wanted} with --vllm-model" if candidates else "start it with --lora-modules",
        )
    return str(name), models[name]


def _base(proof: Proof, folder: Path) -> tuple[str, str | None]:
    settings = _Settings.of(folder)
    if settings.base_in_package:
        return str(folder / BASE_FOLDER), None
    if proof.base_model is not None:
        return str(proof.base_model.absolute()), None
    if not settings.base_model or settings.base_model.startswith("-"):  # it becomes an argument of a program
        raise UserError("the base is not in the package", where=str(proof.package), mend="give --base-model FOLDER")
    return settings.base_model, settings.revision


def _merged(package: Path) -> Path | None:
    """Return the merged weights: in export's output folder, or beside the zip or the unpacked package."""
    package = package.absolute()
    places = (package / MERGED_FOLDER, package.parent / MERGED_FOLDER)
    return next((place for place in places if place.is_dir()), None)


def _decode_plainly(model: Any) -> None:
    """Take out of the generation config what changes greedy search; PEFT's wrapper has one, and the model below it."""
    told = model.generation_config
    for part in (model, model.get_base_model() if hasattr(model, "get_base_model") else model):
        part.generation_config = GenerationConfig(eos_token_id=told.eos_token_id, pad_token_id=told.pad_token_id)


def _ours(
    proof: Proof, folder: Path, pages: Sequence[ProofPage]
) -> tuple[list[StepByStep], list[StepByStep] | list[None], Any]:
    """Return our readings with the adapter and of the base, which a whole model has not, and our image processor."""
    settings, device = _Settings.of(folder), default_device()
    dtype, adapted = default_dtype(device), settings.kind == "adapter"
    if adapted:
        base, revision = _base(proof, folder)
        processor = load_fine_tuned_processor(base, folder, revision=revision)
        model = load_fine_tuned(base, folder, dtype=dtype, device=device, revision=revision)
    else:
        processor, model = load_processor(str(folder)), load_model(str(folder), dtype=dtype, device=device).eval()
    _decode_plainly(model)
    reading = EvaluationReport.read(folder / EVIDENCE_FOLDER).reading.model_dump()
    family = with_image_settings(ImageSettings.of(reading), processor, family_of(settings.model_type))
    reader = Transcriber(model, processor, family, proof.max_new_tokens, graphed=False)
    ours = [reader.read_step_by_step(page) for page in pages]
    if not adapted:
        return ours, [None] * len(ours), processor.image_processor
    with reader.without_adapter(proof.max_new_tokens) as without:
        return ours, [without.read_step_by_step(page) for page in pages], processor.image_processor
