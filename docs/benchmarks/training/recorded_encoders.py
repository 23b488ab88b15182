"""Records the vision encoders of families that pack pictures, and says where a recording failed.

    PYTHONPATH=. python docs/benchmarks/training/recorded_encoders.py OUT

Tiny encoders of all these families, then full-size ones of two (random weights, four pages of 640 x 640 pixels), each
as transformers attends and by segment length. A failed recording prints its traceback. Recording needs a CUDA device;
on a CPU, --small only tries the command. About two minutes. OUT/recorded-encoders.json gets every figure.
"""

import argparse
import json
import logging
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers

from components.shared.models.model_loading import default_device
from components.shared.reading.segment_attention import attend_by_segment_length
from components.train.vision import recorded_vision
from tests.fixtures.packed_encoders import GRIDS, PACKED_ENCODERS, features, packed_encoder, pixels

_MODELS = transformers.models
_FULL_SIZE: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "qwen2_5_vl": (
        _MODELS.qwen2_5_vl.modeling_qwen2_5_vl.Qwen2_5_VisionTransformerPretrainedModel,
        _MODELS.qwen2_5_vl.configuration_qwen2_5_vl.Qwen2_5_VLVisionConfig,
        {"hidden_size": 1280, "out_hidden_size": 2048},
    ),
    "paddleocr_vl": (
        _MODELS.paddleocr_vl.modeling_paddleocr_vl.PaddleOCRVisionModel,
        _MODELS.paddleocr_vl.configuration_paddleocr_vl.PaddleOCRVisionConfig,
        {},
    ),
}
"""Encoder and config of transformers, and the published sizes that are not the config's defaults."""
_PAGES, _SIDE = 4, 46  # a page of 640 pixels is 46 patches wide and high
_WARM_UP = 3  # calls: kernels are chosen, the encoder is recorded


class _Failures(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self.texts.append(logging.Formatter().format(record))


@contextmanager
def _failures() -> Iterator[list[str]]:
    """Give the list that tracebacks of failed recordings are put into."""
    handler, log = _Failures(), recorded_vision.log
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    try:
        yield handler.texts
    finally:
        log.removeHandler(handler)
        log.setLevel(before)


def figures(encoder: Any, pictures: torch.Tensor, grid: torch.Tensor, by_length: bool, repeats: int) -> dict[str, Any]:
    """Return whether the encoder was recorded, whether its features are equal, and milliseconds of a call."""
    if by_length:
        attend_by_segment_length(encoder)
    with torch.no_grad(), _failures() as failures:
        replayed = recorded_vision.recorded(encoder.forward)
        ours, theirs = (features(run(pictures, grid_thw=grid)) for run in (replayed, encoder.forward))
        found = {
            "by_length": by_length,
            "recorded": pictures.is_cuda and not failures,
            "equal": all(map(torch.equal, ours, theirs)),
            "direct_ms": _milliseconds(encoder.forward, pictures, grid, repeats),
            "recorded_ms": _milliseconds(replayed, pictures, grid, repeats),
            "traceback": "\n".join(failures),
        }
    return found


def _milliseconds(run: Any, pictures: torch.Tensor, grid: torch.Tensor, repeats: int) -> float:
    """Return the median milliseconds of a call, until the device is done."""
    seconds = []
    for _ in range(repeats + _WARM_UP):
        _wait()
        started = time.perf_counter()
        run(pictures, grid_thw=grid)
        _wait()
        seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds[_WARM_UP:])


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def full_size(name: str) -> tuple[Any, torch.Tensor, torch.Tensor]:
    """Return a full-size encoder with random weights, pixels of four pages, and their grid."""
    model, config, sizes = _FULL_SIZE[name]
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(default_device()):
            encoder = model._from_config(config(**sizes))
    finally:
        torch.set_default_dtype(before)
    grid = torch.tensor([[1, _SIDE, _SIDE]] * _PAGES)
    patches = int(grid.prod(dim=1).sum())
    shape = (1, patches, 3, 14, 14) if name == "paddleocr_vl" else (patches, 3 * 2 * 14 * 14)
    return encoder.eval().requires_grad_(False), torch.randn(shape, generator=torch.Generator().manual_seed(0)), grid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--small", action="store_true", help="only the tiny encoders")
    options = parser.parse_args()
    device = default_device()
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    report: dict[str, Any] = {"torch": torch.__version__, "transformers": transformers.__version__, "encoders": {}}
    if device.type == "cuda":
        report["device"] = torch.cuda.get_device_name()
    for size, names in {"tiny": PACKED_ENCODERS, "full size": {} if options.small else _FULL_SIZE}.items():
        for name in names:
            for by_length in (False, True):
                if size == "tiny":
                    encoder, pictures, grid = packed_encoder(name), pixels(name, 0), GRIDS
                else:
                    encoder, pictures, grid = full_size(name)
                found = figures(
                    encoder.to(device, dtype),
                    pictures.to(device, dtype),
                    grid.to(device),
                    by_length,
                    options.repeats,
                )
                report["encoders"].setdefault(f"{name}, {size}", []).append(found)
                if found["traceback"]:
                    print(f"== {name}, {size}, by length: {by_length}\n{found['traceback']}", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "recorded-encoders.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print("encoder | by length | recorded | equal | direct ms | recorded ms")
    for name, rows in report["encoders"].items():
        for row in rows:
            figured = f"{row['direct_ms']:.2f} | {row['recorded_ms']:.2f}"
            print(f"{name} | {row['by_length']} | {row['recorded']} | {row['equal']} | {figured}")


if __name__ == "__main__":
    main()
