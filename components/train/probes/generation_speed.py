"""Transcribes pages with a trained model and measures its speed, in its backend's process and number format."""

import importlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from components.shared.datasets.shard_reader import Sample
from components.shared.errors import UserError
from components.shared.reading.graphed_decoding import GraphedDecoding, RecordingError
from components.shared.reading.image_text_inputs import generation_inputs
from components.shared.reading.transcriber import Transcriber
from components.train.backends.protocol import TrainableModel


@contextmanager
def inference_mode_of(trainable: TrainableModel, backend: str) -> Iterator[None]:
    """Switch the model to generation (with Unsloth's faster path for that backend) and back to training afterwards."""
    model: Any = trainable.model
    vision_model = importlib.import_module("unsloth").FastVisionModel if backend == "unsloth" else None
    model.eval()
    model.config.use_cache = True
    if vision_model:
        vision_model.for_inference(model)
    try:
        yield
    finally:
        model.config.use_cache = False
        if vision_model:
            vision_model.for_training(model)
        model.train()


@torch.no_grad()
def put_adapter(trainable: TrainableModel, adapter_dir: Path) -> None:
    """Copy the trained adapter's weights into the loaded model, matched by the names that PEFT saves.

    Raises:
        UserError: the folder contains no adapter, or an adapter of another model.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors.torch import load_file

    file = adapter_dir / "adapter_model.safetensors"
    if not isinstance(trainable.model, PeftModel) or not file.is_file():
        raise UserError("no adapter to read with", where=str(adapter_dir), mend="train with peft: lora")
    stored, loaded = load_file(file), get_peft_model_state_dict(trainable.model)
    if stored.keys() != loaded.keys():
        raise UserError(
            f"{len(stored.keys() ^ loaded.keys())} weights differ in name",
            where=str(adapter_dir),
            mend="is it another model's adapter?",
        )
    if trainable.start:
        from components.train.backends.loftq import without_start

        stored = without_start(stored, loaded)
    for name, weight in loaded.items():
        weight.copy_(stored[name])


def transcriptions(
    trainable: TrainableModel, pages: Sequence[Sample], batch_size: int, max_new_tokens: int
) -> dict[str, Any]:
    """Return the pages' ``labels``, the model's transcriptions (``texts``), and the ``seconds`` of all batches."""
    model: Any = trainable.model
    transcriber = Transcriber(model, trainable.processor, trainable.family, max_new_tokens)
    started = time.perf_counter()
    texts = [
        prediction.text
        for start in range(0, len(pages), batch_size)
        for prediction in transcriber.read(pages[start : start + batch_size])
    ]
    return {"labels": [page.text for page in pages], "texts": texts, "seconds": time.perf_counter() - started}


@torch.inference_mode()
def generation_speed(trainable: TrainableModel, pages: Sequence[Sample], tokens: int, repeats: int) -> dict[str, Any]:
    """Return lists with one value per repeat; a first warm-up repeat is left out.

    ``tokens_per_second`` and ``pages_per_second``: one greedy batch of ``pages`` with the model's ``generate``, exactly
    ``tokens`` tokens each, with the pictures' tensors on the device already. ``graphed_tokens_per_second`` and
    ``graphed_pages_per_second``: the same with steps recorded as CUDA graphs, on devices that can record; if recording
    fails for this model, ``not_recorded`` gives the reason instead. ``first_token_seconds``: one page, from the decoded
    picture on.
    """
    model: Any = trainable.model
    inputs = _encoded(trainable, pages)
    length = inputs["input_ids"].shape[1] + tokens

    def generated(given: Any, count: int) -> torch.Tensor:
        options = {"do_sample": False, "num_beams": 1, "use_cache": True}
        output: torch.Tensor = model.generate(**given, **options, min_new_tokens=count, max_new_tokens=count)
        return output

    first = _seconds(lambda: generated(_encoded(trainable, pages[:1]), 1), repeats, None)
    rates = _rates(len(pages), tokens, _seconds(lambda: generated(inputs, tokens), repeats, length))
    graphed = GraphedDecoding(model, end_tokens=[], pad_token=0)
    figures: dict[str, Any] = {"pages": len(pages), "tokens_per_page": tokens, **rates, "first_token_seconds": first}
    if not graphed.supports():
        return figures
    try:
        seconds = _seconds(lambda: graphed.generate(inputs, tokens), repeats, length)
    except RecordingError as error:
        return figures | {"not_recorded": str(error)}
    return figures | {f"graphed_{name}": values for name, values in _rates(len(pages), tokens, seconds).items()}


def _encoded(trainable: TrainableModel, pages: Sequence[Sample]) -> Any:
    images, instructions = [page.image for page in pages], [page.instruction for page in pages]
    inputs = generation_inputs(trainable.processor, trainable.family, images, instructions)
    return inputs.to(trainable.model.device, trainable.model.dtype)


def _seconds(generate: Callable[[], torch.Tensor], repeats: int, length: int | None) -> list[float]:
    """Return the seconds of ``repeats`` calls after a warm-up call; ``length`` is the expected output length."""
    seconds = []
    for _ in range(repeats + 1):
        _synchronize()
        started = time.perf_counter()
        output = generate()
        _synchronize()
        seconds.append(time.perf_counter() - started)
        if length and output.shape[1] != length:
            raise RuntimeError(f"prompt and answer have {output.shape[1]} tokens where {length} were asked for")
    return seconds[1:]


def _rates(pages: int, tokens: int, seconds: list[float]) -> dict[str, list[float]]:
    return {
        "tokens_per_second": [pages * tokens / each for each in seconds],
        "pages_per_second": [pages / each for each in seconds],
    }


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
