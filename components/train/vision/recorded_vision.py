"""Runs a frozen vision encoder as a replayed CUDA graph.

Its pictures have one or two sizes and its weights do not change, so each step launches the same kernels again, and
launching them takes the host longer than the GPU needs to run them. The encoder is recorded once per input shape.
"""

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch

from components.shared.errors import first_line

log = logging.getLogger(__name__)

# Enough for pages and tiles: microbatches of one to four pages, or of up to seven tiles.
_RECORDINGS = 12
_CALLS_BEFORE_RECORDING = 2  # warm-up: kernels are compiled and libraries allocate their workspaces


def recorded(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Return a version of a vision encoder's ``forward`` that records each shape of pictures once, then replays it.

    The first argument is a tensor of shape (pictures, channels, height, width). The recordings keep the memory of one
    call. ``forward`` itself runs when gradients are computed, on a CPU, for shapes beyond the first twelve, and, after
    a warning, from the first recording on that fails.
    """
    recordings: dict[tuple[Any, ...], _Recording] = {}
    failed = False

    @functools.wraps(forward)
    def replayed_forward(pixel_values: torch.Tensor, *inputs: Any, **options: Any) -> Any:
        nonlocal failed
        plain = all(value is None or isinstance(value, bool) for value in options.values()) and not inputs
        if failed or not plain or pixel_values.device.type != "cuda" or torch.is_grad_enabled():
            return forward(pixel_values, *inputs, **options)
        autocast = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None
        case = (pixel_values.shape, pixel_values.dtype, autocast, *sorted(options.items()))
        if case not in recordings and len(recordings) < _RECORDINGS:
            pool = next((recording.pool for recording in recordings.values()), None)
            try:
                recordings[case] = _Recording(functools.partial(forward, **options), pixel_values, pool)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                log.warning("the vision encoder cannot be recorded: %s", first_line(error))
                failed = True
        if case not in recordings:
            return forward(pixel_values, **options)
        return recordings[case].replay(pixel_values)

    return replayed_forward


class _Recording:
    """The recording of one shape of pictures: its input tensor, its CUDA graph, and its output tensors."""

    def __init__(self, encode: Callable[[torch.Tensor], Any], pictures: torch.Tensor, pool: Any) -> None:
        with torch.inference_mode(False), torch.no_grad():  # the recording outlives a surrounding inference mode
            self._pictures = pictures.clone()
            side_stream = torch.cuda.Stream()
            side_stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side_stream):
                for _ in range(_CALLS_BEFORE_RECORDING):
                    encode(self._pictures)
            torch.cuda.current_stream().wait_stream(side_stream)
            self._graph = torch.cuda.CUDAGraph()
            # torch.cuda.graph leaves its own stream as the current one if a recording fails: restore it.
            # "thread_local": the thread that pins batches calls CUDA during the recording.
            with (
                torch.cuda.stream(torch.cuda.current_stream()),
                torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"),
            ):
                self._features = encode(self._pictures)
        self.pool = self._graph.pool()

    def replay(self, pictures: torch.Tensor) -> Any:
        self._pictures.copy_(pictures)
        self._graph.replay()
        # Copy: the next replay of any recording in the pool overwrites this memory.
        return type(self._features)(**{name: _copy(value) for name, value in self._features.items()})


def _copy(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    return value if value is None else tuple(_copy(each) for each in value)
