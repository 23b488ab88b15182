"""The folder ``vllm`` in a package: the adapter under vLLM's names, its class's config, and how to serve."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from components.export.config import ExportConfig
from components.shared.artifacts.package_files import json_mapping
from components.shared.errors import UserError
from components.shared.models.model_loading import config_of
from components.shared.vllm.adapter_names import served_names, write_served_adapter
from components.shared.vllm.served_families import ServedFamily, served_family

SERVED_FOLDER = "vllm"
SERVING_FILE = "serving.json"
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what --max-lora-rank takes


@dataclass(frozen=True)
class Serving:
    """How vLLM serves a package; the content of ``serving.json``.

    Attributes:
        vllm_class: the architecture's name in vLLM.
        adapter: whether the folder holds the adapter; if not, the merged weights or the whole model are served.
        max_lora_rank: the value for ``--max-lora-rank``; None without an adapter.
        lora_target_modules: the values for ``--lora-target-modules``; empty where vLLM needs none.
        own_config: whether ``config.json`` beside this file must be given with ``--hf-config-path``.
        prompt: the text after the picture in a request.
    """

    vllm_class: str
    adapter: bool
    max_lora_rank: int | None
    lora_target_modules: list[str]
    own_config: bool
    prompt: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def read(cls, package: Path) -> "Serving":
        """Return what a package says.

        Raises:
            UserError: it was exported without ``serving``, or the file is not what export writes.
        """
        path, mend = package / SERVED_FOLDER / SERVING_FILE, "export with serving: [vllm]"
        if not path.is_file():
            raise UserError("the package has no files for vLLM", where=str(path), mend=mend)
        try:
            found = TypeAdapter(cls).validate_python(json_mapping(path, mend))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            said = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
            raise UserError(f"cannot be read ({said})", where=str(path), mend=mend) from error
        if any(name.startswith("-") for name in found.lora_target_modules):  # they become arguments of a program
            raise UserError("lora_target_modules holds an option", where=str(path), mend=mend)
        return found


def check_servable(config: ExportConfig, kind: str) -> None:
    """Reject what ``serving`` asks for and vLLM does not serve, before anything is read or merged.

    Raises:
        UserError: an unknown family, or an adapter that its class does not load; the message says the way out.
    """
    if not config.serving:
        return
    loaded = kind == "adapter" and not config.merge
    model_type = config_of(config.base_model, config.revision, config.trust_remote_code).model_type
    family = served_family(model_type, adapter=loaded)
    if not loaded:
        return
    content = json.loads((config.adapter_dir / "adapter_config.json").read_text(encoding="utf-8"))
    served_names(config.adapter_dir, content, family)


def write_serving_files(
    config: ExportConfig, *, kind: str, prompt: str, processor: Any, package: Path
) -> Serving | None:
    """Write the folder ``vllm`` into ``package``; None if the export does not ask for it.

    With ``merge``, an adapter that vLLM does not load is left out, and the merged weights are what is served.
    ``processor`` has the image settings of the evaluation; ``prompt`` is the text after the picture.

    Raises:
        UserError: the family or the adapter is not servable (see ``check_servable``), or vLLM reads pages at other
            sizes than the evaluation did.
    """
    if not config.serving:
        return None
    base = config_of(config.base_model, config.revision, config.trust_remote_code)
    family = served_family(base.model_type, adapter=False)
    _check_sizes(family, processor.image_processor)
    folder = package / SERVED_FOLDER
    folder.mkdir()
    rank = _adapter(config, family, folder) if kind == "adapter" else None
    if family.config is not None:
        content = family.config(base.to_dict())
        (folder / "config.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    allowed = None if rank is None else next((value for value in _RANKS if value >= rank), rank)
    modules = _target_modules(folder) if rank is not None and family.routed_experts else []
    serving = Serving(family.vllm_class, rank is not None, allowed, modules, family.config is not None, prompt)
    (folder / SERVING_FILE).write_text(json.dumps(serving.as_json(), indent=2) + "\n", encoding="utf-8")
    return serving


def _adapter(config: ExportConfig, family: ServedFamily, folder: Path) -> int | None:
    if family.adapted is None:
        return None
    try:
        return write_served_adapter(config.adapter_dir, family, folder)
    except UserError:
        if config.merge:
            return None
        raise


def _target_modules(folder: Path) -> list[str]:
    content = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    return list(content["target_modules"])


def _check_sizes(family: ServedFamily, images: Any) -> None:
    if family.fixed_sizes is None:
        return
    sizes, crops = (images.size["height"], images.tile_size), getattr(images, "crop_to_patches", True)
    if sizes != family.fixed_sizes or not crops or images.max_patches != family.max_crops:
        page, tile = family.fixed_sizes
        seen = f"at most {images.max_patches} tiles" if crops else "no tiles, without crop_mode"
        raise UserError(
            f"vLLM's {family.vllm_class} always sees a page at {page} pixels and at most {family.max_crops} tiles at"
            f" {tile}; the evaluation saw the page at {sizes[0]}, and {seen} at {sizes[1]}",
            where="export.serving",
            mend=f"evaluate with base_size: {page}, image_size: {tile}, crop_mode: true, max_crops: {family.max_crops}",
        )
