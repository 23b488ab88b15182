"""A CUDA device, as far as recording a step needs one, on which recordings fail; for tests without a GPU."""

import pytest
import torch

from components.shared.graphed_decoding import GraphedDecoding


class ShortRecordings:
    """A device on which the first recordings fail with ``errors``, one each; later ones are not made at all."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *errors: Exception) -> None:
        self.errors, self.stream, self.pools = list(errors), "the default stream", 0
        monkeypatch.setattr(GraphedDecoding, "supports", lambda decoding: True)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(self.errors))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda *_: self.stream)
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: SimpleStream(self, stream))
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleGraph(self))
        monkeypatch.setattr(torch.cuda, "graph", lambda graph, capture_error_mode: SimpleRecording(self))


class SimpleStream:
    """``torch.cuda.stream``: the stream that was current before is so again after the block."""

    def __init__(self, device: ShortRecordings, stream: str) -> None:
        self._device, self._stream = device, stream

    def __enter__(self) -> None:
        self._before, self._device.stream = self._device.stream, self._stream

    def __exit__(self, *_: object) -> None:
        self._device.stream = self._before


class SimpleGraph:
    """``torch.cuda.CUDAGraph``, whose memory pool is counted."""

    def __init__(self, device: ShortRecordings) -> None:
        self._device = device
        device.pools += 1

    def reset(self) -> None:
        self._device.pools -= 1


class SimpleRecording:
    """``torch.cuda.graph``, as it is where a recording cannot be ended: its own stream stays the current one."""

    def __init__(self, device: ShortRecordings) -> None:
        self._device = device

    def __enter__(self) -> None:
        self._device.stream = "the recording's stream"

    def __exit__(self, *_: object) -> None:
        raise self._device.errors.pop(0)
