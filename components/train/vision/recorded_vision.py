"""Runs a frozen vision encoder as a replayed CUDA graph.

Pages often have one size or a few, and the encoder's weights do not change, so each step launches the same kernels
again, and launching them takes the host longer than the GPU needs to run them. The encoder is recorded once per shape
of pictures and value of its other inputs, such as the sizes of packed pictures (``image_grid_thw``).
"""

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch
from transformers.utils import ModelOutput

from components.shared.errors import first_line
from components.shared.reading.vision_microbatches import PIXELS_AT_ONCE
from components.train.vision.fixed_work import FixedWork, NotSeparableError

log = logging.getLogger(__name__)

# Enough for pages and tiles: microbatches of one to four pages, or of up to seven tiles.
_RECORDINGS = 12
_CALLS_BEFORE_RECORDING = 2  # warm-up: kernels are compiled and libraries allocate their workspaces
# A larger input is a large batch, whose kernels take longer than their launches, and the memory of a recording stays.
# Six values a pixel: three colours, and Qwen-VL's encoders take each picture twice, as two frames of a film.
LARGEST_INPUT = 6 * PIXELS_AT_ONCE
_MOST_NUMBERS = 256  # of the other inputs: three for each picture
_LARGEST_DIFFERENCE = 0.02  # of the largest feature; other kernels may round differently, stale results differ more


def recorded(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Return a version of a vision encoder's ``forward`` that records each shape of pictures once, then replays it.

    The first argument is the tensor of pixels, the others are constants or a few whole numbers. The recordings keep
    the memory of one call. ``forward`` itself runs when gradients are computed, on a CPU, for the thirteenth shape and
    later ones, for large batches, and, after a warning, from the first recording on that fails.
    """
    recordings: dict[Any, _Recording] = {}
    failed = False
    told: set[str] = set()

    @functools.wraps(forward)
    def replayed_forward(*inputs: Any, **options: Any) -> Any:
        nonlocal failed
        pictures, others = _pictures_and_others(inputs, options)
        if failed or pictures is None or not pictures.is_cuda or torch.is_grad_enabled():
            return forward(*inputs, **options)
        if (obstacle := _obstacle(pictures, others)) is not None:
            if obstacle not in told:
                told.add(obstacle)
                log.info("the vision encoder runs without a recording: %s", obstacle)
            return forward(*inputs, **options)
        case = _case(pictures, others)
        if case not in recordings and len(recordings) >= _RECORDINGS:
            return forward(*inputs, **options)
        if case not in recordings:
            pool = next((recording.pool for recording in recordings.values()), None)
            try:
                recordings[case] = _Recording(_of_pictures(forward, inputs, options), pictures, pool)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                log.warning("the vision encoder cannot be recorded: %s", first_line(error))
                log.debug("the recording failed here", exc_info=True)
                failed = True
                return forward(*inputs, **options)
        return recordings[case].replay(pictures)

    return replayed_forward


def _pictures_and_others(inputs: tuple[Any, ...], options: dict[str, Any]) -> tuple[torch.Tensor | None, Any]:
    """Return the tensor of pixels, which is the first argument, and all other arguments."""
    places = dict(enumerate(inputs)) | options
    name = next(iter(places), None)
    pictures = places.pop(name, None) if name is not None else None
    is_pixels = isinstance(pictures, torch.Tensor) and pictures.is_floating_point()
    return (pictures if is_pixels else None), places


def _of_pictures(
    forward: Callable[..., Any], inputs: tuple[Any, ...], options: dict[str, Any]
) -> Callable[[torch.Tensor], Any]:
    """Return ``forward`` as a function of the pixels alone."""
    if inputs:
        return lambda pictures: forward(pictures, *inputs[1:], **options)
    name = next(iter(options))
    return lambda pictures: forward(**options | {name: pictures})


def _obstacle(pictures: torch.Tensor, others: dict[Any, Any]) -> str | None:
    """Return why an input is not recorded; None if it can be."""
    if pictures.numel() > LARGEST_INPUT:
        return f"a batch has more than {LARGEST_INPUT:,} values of pixels"
    for name, value in others.items():
        if isinstance(value, torch.Tensor):
            if value.is_floating_point():
                return f"{name} holds other numbers than whole ones"
            if value.numel() > _MOST_NUMBERS:
                return f"{name} holds more than {_MOST_NUMBERS} numbers"
        elif not _is_constant(value):
            return f"{name} is neither a constant nor a tensor ({type(value).__name__})"
    return None


def _case(pictures: torch.Tensor, others: dict[Any, Any]) -> Any:
    """Return what a recording depends on apart from the pixels."""
    values = []
    for name, value in others.items():
        if isinstance(value, torch.Tensor):
            value = (tuple(value.shape), tuple(value.flatten().tolist()))
        values.append((name, repr(value)))
    autocast = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None
    return (pictures.shape, pictures.dtype, autocast, *values)


def _is_constant(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return len(value) <= _MOST_NUMBERS and all(_is_constant(each) for each in value)
    return value is None or isinstance(value, bool | int | str)


def other_pixels(pictures: torch.Tensor) -> torch.Tensor:
    """Return valid pictures of the same shape with other values: the rows in reverse order, and half as bright.

    Kosmos-2.5 gives each patch's row and column as its first two values, from which it takes rows of a table. Reversed,
    such a column keeps its values, and half of a whole number up to n, rounded down, is one too.
    """
    return pictures.flip(-2) / 2


class _Recording:
    """The recording of one shape of pictures: its input tensor, its CUDA graph, and its output tensors."""

    def __init__(self, encode: Callable[[torch.Tensor], Any], pictures: torch.Tensor, pool: Any) -> None:
        with torch.inference_mode(False), torch.no_grad():  # the recording outlives a surrounding inference mode
            self._pictures = pictures.clone()
            side_stream = torch.cuda.Stream()
            side_stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side_stream):
                for _ in range(_CALLS_BEFORE_RECORDING - 1):
                    encode(self._pictures)
                run = self._without_fixed_work(encode)
                # Other pixels: what wrongly counts as independent of them would show.
                others = other_pixels(self._pictures)
                expected = _copies(encode(others))
            torch.cuda.current_stream().wait_stream(side_stream)
            self._graph = torch.cuda.CUDAGraph()
            # torch.cuda.graph leaves its own stream as the current one if a recording fails: restore it.
            # "thread_local": the thread that pins batches calls CUDA during the recording.
            with (
                torch.cuda.stream(torch.cuda.current_stream()),
                torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"),
            ):
                self._features = run(self._pictures)
            self._run = run  # the graph reads what it keeps
            self._check(expected, self.replay(others))
        self.pool = self._graph.pool()

    def _without_fixed_work(self, encode: Callable[[torch.Tensor], Any]) -> Callable[[torch.Tensor], Any]:
        try:
            return FixedWork(encode, self._pictures).run
        except NotSeparableError as error:
            log.debug("the vision encoder is recorded with all its work: %s", error)
            return encode

    def replay(self, pictures: torch.Tensor) -> Any:
        self._pictures.copy_(pictures)
        self._graph.replay()
        # Copy: the next replay of any recording in the pool overwrites this memory.
        return _copies(self._features)

    def _check(self, expected: Any, replayed: Any) -> None:
        for wanted, found in zip(_tensors(expected), _tensors(replayed), strict=True):
            if float((wanted - found).abs().max()) > _LARGEST_DIFFERENCE * float(wanted.abs().max()):
                raise RuntimeError("the recording returns other features than the encoder")


def _copies(features: Any) -> Any:
    if not isinstance(features, ModelOutput):
        raise RuntimeError(f"it returns {type(features).__name__}")
    return type(features)(**{name: _copy(value) for name, value in features.items()})


def _copy(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    return value if value is None else tuple(_copy(each) for each in value)


def _tensors(features: Any) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    for value in features.values():
        found += [value] if isinstance(value, torch.Tensor) else list(value or ())
    return [each for each in found if each.is_floating_point()]
