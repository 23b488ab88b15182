"""The embedded engine beside vLLM on one GPU: the same DeepSeek-OCR-2, pages, batch and clients, in 6 minutes:

    PYTHONPATH=. python docs/benchmarks/serving/beside_vllm.py --vllm-python PYTHON --output $OUT/beside-vllm.json

Both servers get the full-size model with random weights, and take 600 tokens for every page. vLLM runs as it starts
by itself, with its compiled steps, CUDA graphs and prefix cache; every page is another one. Then vLLM and this project
read the same pages with an adapter, and the product's own proof (``deepsynth verify --vllm``) compares their tokens.
README.md beside this file has what was measured.
On a CPU: --model small --pages 4 --batch 2 --tokens 12 --seconds 5 --minutes 60 -- --dtype float32 --enforce-eager
"""

import argparse
import base64
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import torch
from load import Answer, reader, saturated
from peft import LoraConfig, get_peft_model
from PIL import Image
from service_process import TEXT, as_file, drawn, running_service
from transformers import DeepseekOcr2Processor
from transformers.models.deepseek_ocr2.image_processing_pil_deepseek_ocr2 import DeepseekOcr2ImageProcessorPil

from components.benchmark.contenders.full_size_model import save_full_size_deepseek_ocr2
from components.export.proof.comparison import ServedReading, verdict_of_readings
from components.export.proof.server_process import running_vllm
from components.shared.errors import UserError
from components.shared.models.adapter_loading import load_fine_tuned
from components.shared.models.model_families import FAMILIES, family_of
from components.shared.models.model_loading import (
    config_of,
    default_device,
    default_dtype,
    load_model,
    load_processor,
    release_memory,
)
from components.shared.reading.transcriber import Transcriber
from components.shared.vllm.adapter_names import write_served_adapter
from components.shared.vllm.deepseek_config import second_deepseek_ocr
from components.shared.vllm.served_families import SERVED_FAMILIES
from tests.fixtures.full_size_deepseek import beginning_tokenizer
from tests.fixtures.full_size_deepseek import save_full_size_deepseek_ocr2 as save_small

FAMILY = FAMILIES["deepseek_ocr2"]
_PAGE = (640, 640)  # square: no margin, which vLLM draws one pixel away where it is odd


@dataclass(frozen=True)
class _Page:
    """A page for the transcriber."""

    image: Image.Image
    instruction: None = None


def main() -> None:
    """Measure, prove, and print a table."""
    parts = {part.__name__: part for part in (embedded, vllm, proof)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm-python", type=Path, required=True, help="a Python that has vLLM")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--model", choices=["full", "small"], default="full")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=600)
    parser.add_argument("--pages", type=int, default=256, help="different pages")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each measurement")
    parser.add_argument("--minutes", type=float, default=6.0, help="no part begins after them")
    parser.add_argument("--parts", nargs="+", choices=sorted(parts), default=list(parts), help="in this order")
    parser.add_argument("vllm", nargs="*", help="arguments for vLLM, after --")
    options = parser.parse_args()
    ends = time.monotonic() + 60 * options.minutes
    found: dict[str, Any] = {"torch": torch.__version__, "date": time.strftime("%Y-%m-%d"), "cpus": os.cpu_count()}
    found["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    found["settings"] = {name: str(value) for name, value in vars(options).items()}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = _saved(options.model, folder / "model")
        (folder / "vllm").mkdir()
        config = second_deepseek_ocr(config_of(str(model), None, False).to_dict())
        (folder / "vllm" / "config.json").write_text(json.dumps(config))
        for part in (parts[name] for name in options.parts):
            if time.monotonic() > ends:
                found[part.__name__] = "no time was left"
                continue
            started = time.monotonic()
            try:
                found[part.__name__] = part(model, folder / "vllm", options)
            except UserError as error:
                found[part.__name__] = {"failed": str(error)}
            found[part.__name__]["whole_seconds"] = round(time.monotonic() - started, 1)
            options.output.write_text(json.dumps(found, indent=1) + "\n")
            print(part.__name__, json.dumps(found[part.__name__]), flush=True)
    print(table(found))


def _saved(name: str, folder: Path) -> Path:
    """Write the model; vLLM needs a tokenizer that begins texts with a token, as the published one does."""
    if name == "small":
        save_small(folder)
        return folder
    save_full_size_deepseek_ocr2(folder)
    tokenizer = beginning_tokenizer(FAMILY.prompt)  # its first three tokens have the ids that the config says
    DeepseekOcr2Processor(image_processor=DeepseekOcr2ImageProcessorPil(), tokenizer=tokenizer).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["bos_token_id"] = tokenizer.bos_token_id
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    return folder


def _save_adapter(model: Path, folder: Path) -> None:
    """Write an adapter that reads otherwise than the base."""
    device = default_device()
    base = load_model(str(model), dtype=default_dtype(device), device=device)
    adapted = get_peft_model(base, LoraConfig(r=8, lora_alpha=16, target_modules=FAMILY.language_modules))
    torch.manual_seed(3)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    adapted.save_pretrained(str(folder))
    load_processor(str(model)).save_pretrained(folder)
    del base, adapted
    release_memory()


def _pages(options: argparse.Namespace) -> list[bytes]:
    return [as_file(drawn(f"{TEXT}\n{number}", *_PAGE)) for number in range(options.pages)]


def embedded(model: Path, _: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return the rate of this project's service."""
    flags = ("--model", str(model), "--max_batch_size", str(options.batch), "--max_new_tokens", str(options.tokens))
    with running_service(*flags, "--max_queued_pages", "4096") as service:
        return _measured(reader(service.url, _pages(options)), options)


def vllm(model: Path, served: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return the rate of vLLM's server."""
    longest = str(options.tokens + 1400)  # 256 tokens of a page, up to 6 x 144 of its tiles, and the prompt
    arguments = ["--hf-config-path", str(served), "--max-model-len", longest, "--served-model-name", "model"]
    more = options.vllm or ["--no-enforce-eager", "--dtype", "bfloat16"]
    with running_vllm(options.vllm_python, model, [*arguments, "--max-num-seqs", str(options.batch), *more]) as server:
        return _measured(_vllm_reader(server.address, _pages(options), options.tokens), options)


def _vllm_reader(address: str, pages: list[bytes], tokens: int) -> Callable[[int, float], Answer]:
    def send(number: int, started: float) -> Answer:
        picture = f"data:image/png;base64,{base64.b64encode(pages[number % len(pages)]).decode()}"
        content = [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": FAMILY.prompt}]
        body = {
            **{"model": "model", "messages": [{"role": "user", "content": content}], "temperature": 0},
            **{"max_tokens": tokens, "ignore_eos": True},
        }
        try:
            response = requests.post(f"{address}/v1/chat/completions", json=body, timeout=900)
            if response.status_code != 200:
                return Answer(response.status_code, started, time.perf_counter(), text=response.text[:300])
            told = response.json()
        except requests.RequestException as error:
            return Answer(type(error).__name__, started, time.perf_counter(), number=number)
        text, usage = told["choices"][0]["message"]["content"], told["usage"]["completion_tokens"]
        return Answer(200, started, time.perf_counter(), usage, text, number=number)

    return send


def _measured(send: Callable[[int, float], Answer], options: argparse.Namespace) -> dict[str, Any]:
    for number in range(2):  # the first pages allocate, record and compile
        first = send(number, time.perf_counter())
        if first.status != 200:
            return {"failed": f"{first.status}: {first.text}"}
    return saturated(send, 3 * options.batch, options.seconds, options.batch)


def proof(model: Path, served: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return the product's verdict on pages that both read, with an adapter and without."""
    adapter = served.parent / "adapter"
    _save_adapter(model, adapter)
    rank = write_served_adapter(adapter, SERVED_FAMILIES["deepseek_ocr2"], served)
    modules = json.loads((served / "adapter_config.json").read_text())["target_modules"]
    arguments = ["--hf-config-path", str(served), "--enable-lora", "--max-lora-rank", str(max(8, rank))]
    arguments += ["--lora-target-modules", *modules, "--lora-modules", f"adapter={served}", "--max-model-len", "2048"]
    device = default_device()
    dtype = default_dtype(device)
    arguments += ["--dtype", str(dtype).removeprefix("torch."), "--served-model-name", "model"]
    pages = [drawn(f"{TEXT}\n{number}", *_PAGE).convert("RGB") for number in range(4)]
    with running_vllm(options.vllm_python, model, arguments) as server:
        theirs = {name: [server.read(name, page, FAMILY.prompt, 32) for page in pages] for name in ("adapter", "model")}
    adapted = load_fine_tuned(str(model), adapter, dtype=dtype, device=device)
    transcriber = Transcriber(adapted, load_processor(str(model)), family_of("deepseek_ocr2"), 32, graphed=False)
    asked = [_Page(page) for page in pages]
    ours = [transcriber.read_step_by_step(page) for page in asked]
    with transcriber.without_adapter(32) as without:
        bases = [without.read_step_by_step(page) for page in asked]
    del adapted, transcriber
    release_memory()
    rows = zip(ours, theirs["adapter"], bases, theirs["model"], strict=True)
    verdict = verdict_of_readings([ServedReading(f"page {number}", *row) for number, row in enumerate(rows)])
    return {"verdict": str(verdict), "state": verdict.state, "noise": verdict.noise}


def table(found: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    lines = ["| | pages/s | tokens/s | p50 | p95 |", "| --- | ---: | ---: | ---: | ---: |"]
    for name in ("embedded", "vllm"):
        part = found.get(name)
        if isinstance(part, dict) and "pages_per_second" in part:
            told = [part["pages_per_second"], part["tokens_per_second"], part["p50_seconds"], part["p95_seconds"]]
            lines.append(f"| {name} | {' | '.join(map(str, told))} |")
    return "\n".join([found["device"], "", *lines, "", f"proof: {found.get('proof')}"])


if __name__ == "__main__":
    main()
