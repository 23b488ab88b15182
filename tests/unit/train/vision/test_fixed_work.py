"""What does not depend on pixels is computed once, and the features stay the same; tests/gpu records the rest."""

from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from transformers.utils.import_utils import is_tracing

from components.shared.reading.segment_attention import attend_by_segment_length
from components.train.vision import fixed_work
from components.train.vision.fixed_work import FixedWork, NotSeparableError, ReadsPixelsError
from tests.fixtures.packed_encoders import GRIDS, PACKED_ENCODERS, features, packed_encoder, pixels


class CopiesOfTheHost(TorchFunctionMode):
    """Notes where a device is given to functions that copy the host's values to it, hidden from dispatch modes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(self, function: Any, types: Any, places: Any = (), options: Any = None) -> Any:
        options = options or {}
        # Encoders pass the device of their inputs, a torch.device; what stays on the host has a name or none.
        if function in (torch.tensor, torch.as_tensor) and isinstance(options.get("device"), torch.device):
            self.found.append(f"{function.__name__}{places}")
        return function(*places, **options)


class MixedDevices(TorchDispatchMode):
    """Notes the operations that take tensors of several devices: on a GPU each of them is a copy from the host."""

    def __init__(self) -> None:
        super().__init__()
        self.run: list[str] = []
        self.found: list[str] = []

    def __torch_dispatch__(self, operation: Any, types: Any, places: Any = (), options: Any = None) -> Any:
        tensors = [each for each in tree_iter((places, options or {})) if isinstance(each, torch.Tensor)]
        self.run.append(str(operation))
        if len({each.device for each in tensors}) > 1:
            self.found.append(str(operation))
        return operation(*places, **(options or {}))


@pytest.mark.parametrize("by_length", [False, True])
@pytest.mark.parametrize("name", PACKED_ENCODERS)
def test_other_pixels_get_their_own_features(name: str, by_length: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = packed_encoder(name)
    if by_length:
        attend_by_segment_length(encoder)

    def encode(pictures: torch.Tensor) -> Any:
        return encoder(pictures, grid_thw=GRIDS)

    with torch.no_grad():
        encode(pixels(name, 0))  # the plan of segments is made, as by a recording's first call
        work = FixedWork(encode, pixels(name, 0))
        expected = [features(encode(pixels(name, seed))) for seed in (1, 2)]
        found = [features(work.run(pixels(name, seed))) for seed in (1, 2)]
    for ours, theirs in zip(found, expected, strict=True):
        assert len(ours) == len(theirs) and all(map(torch.equal, ours, theirs))
    assert not torch.equal(found[0][0], found[1][0])


@pytest.mark.parametrize("by_length", [False, True])
@pytest.mark.parametrize("name", PACKED_ENCODERS)
def test_the_second_run_copies_no_values_of_the_host(name: str, by_length: bool) -> None:
    encoder = packed_encoder(name)
    if by_length:
        attend_by_segment_length(encoder)

    def encode(pictures: torch.Tensor) -> Any:
        return encoder(pictures, grid_thw=GRIDS)

    first, second = CopiesOfTheHost(), CopiesOfTheHost()
    with torch.no_grad():
        with first:
            encode(pixels(name, 0))
        work = FixedWork(encode, pixels(name, 0))
        with second:
            work.run(pixels(name, 1))
    assert first.found and not second.found


@pytest.mark.parametrize("name", PACKED_ENCODERS)
def test_the_second_run_takes_the_same_course_during_a_recording(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = packed_encoder(name)
    with torch.no_grad():
        work = FixedWork(lambda pictures: encoder(pictures, grid_thw=GRIDS), pixels(name, 0))
        monkeypatch.setattr("torch.cuda.is_current_stream_capturing", lambda: True)
        assert is_tracing(), "transformers sees the recording"
        found = features(work.run(pixels(name, 1)))
        assert is_tracing()
        monkeypatch.undo()
        expected = features(encoder(pixels(name, 1), grid_thw=GRIDS))
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("by_length", [False, True])
@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "glm_ocr"])
def test_what_the_host_made_is_on_the_device_in_the_second_run(name: str, by_length: bool) -> None:
    """Pixels and weights are on another device than the grids, as far as this is possible without a GPU."""
    encoder = packed_encoder(name)
    if by_length:
        attend_by_segment_length(encoder)
    for module in encoder.modules():
        for key, weight in module._parameters.items():
            module._parameters[key] = weight if weight is None else torch.nn.Parameter(weight.to("meta"), False)

    def encode(pictures: torch.Tensor) -> Any:
        return encoder(pictures, grid_thw=GRIDS)

    pictures, watched = pixels(name, 0).to("meta"), MixedDevices()
    with torch.no_grad():
        FixedWork(encode, pictures)  # the plan of segments is made, as by a recording's first call
        work = FixedWork(encode, pictures)
        with watched:
            output = work.run(pictures)
    assert features(output)[0].is_meta and watched.run and not watched.found


def test_an_order_of_rows_that_the_host_made_is_copied_once() -> None:
    def encode(pictures: torch.Tensor) -> torch.Tensor:
        order = torch.tensor([1, 0, 2]).argsort()
        return pictures[order] * torch.tensor([2.0, 3.0], device=pictures.device)

    work = FixedWork(encode, torch.ones(3, 2, device="meta"))
    hidden, watched = CopiesOfTheHost(), MixedDevices()
    with hidden, watched:
        assert work.run(torch.ones(3, 2, device="meta")).is_meta
    assert not hidden.found and not watched.found and "aten.index.Tensor" in watched.run


def test_an_encoder_that_moves_pixels_to_the_host_is_refused() -> None:
    with pytest.raises(ReadsPixelsError, match="copied to the meta"):
        FixedWork(lambda pictures: (pictures * 2).to("meta"), torch.ones(2, 3))


def test_the_second_run_reads_nothing_from_the_device() -> None:
    counted = []

    def encode(pictures: torch.Tensor) -> torch.Tensor:
        size = torch.tensor([2, 3]).prod()
        counted.append(size)
        return pictures * size.item() + torch.arange(3)

    work = FixedWork(encode, torch.ones(2, 3))
    assert torch.equal(work.run(torch.zeros(2, 3)), torch.arange(3).expand(2, 3))
    assert counted[0].data_ptr() == counted[1].data_ptr(), "the kept values"


def test_pixels_written_into_an_older_tensor_are_not_separable() -> None:
    def encode(pictures: torch.Tensor) -> torch.Tensor:
        total = torch.zeros(3)
        total += pictures.sum(dim=0)
        return total

    with pytest.raises(NotSeparableError, match="add_"):
        FixedWork(encode, torch.ones(2, 3))


def test_an_encoder_that_reads_pixels_is_refused() -> None:
    with pytest.raises(ReadsPixelsError, match="local_scalar_dense"):
        FixedWork(lambda pictures: pictures * pictures.sum().item(), torch.ones(2, 3))


def test_another_course_in_the_second_run_is_an_error() -> None:
    runs = iter([1, 2, 0])
    work = FixedWork(lambda pictures: [pictures + step for step in range(next(runs))], torch.ones(1))
    for message in ("instead of None", "ended before"):
        with pytest.raises(NotSeparableError, match=message):
            work.run(torch.ones(1))


@pytest.mark.parametrize("by_length", [False, True])
@pytest.mark.parametrize("name", PACKED_ENCODERS)
def test_what_is_not_kept_is_not_read(name: str, by_length: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = packed_encoder(name)
    if by_length:
        attend_by_segment_length(encoder)

    def encode(pictures: torch.Tensor) -> Any:
        return encoder(pictures, grid_thw=GRIDS)

    # On a GPU, results that are not kept have no memory. Here they become nan, except for whole numbers, which the host
    # may read on a CPU.
    forgotten: list[torch.Size] = []

    def without_values(described: Any) -> torch.Tensor:
        forgotten.append(described.shape)
        return torch.full(described.shape, torch.nan, dtype=described.dtype)

    monkeypatch.setattr(fixed_work, "_host_may_read", lambda value: not value.is_floating_point())
    monkeypatch.setattr(fixed_work, "_without_memory", without_values)
    with torch.no_grad():
        work = FixedWork(encode, pixels(name, 0))
        found = features(work.run(pixels(name, 1)))
        torch.testing.assert_close(found, features(encode(pixels(name, 1))))
    assert forgotten


def test_only_what_the_work_on_pixels_reads_keeps_its_memory() -> None:
    def encode(pictures: torch.Tensor) -> dict[str, torch.Tensor]:
        large = torch.ones(1000, 2, device="meta")
        read = large.sum(0) * 3
        return {"features": pictures + read, "count": read + 1}

    work = FixedWork(encode, torch.ones(3, 2, device="meta"))
    sizes = [
        each.untyped_storage().nbytes()
        for _, result, _ in work._results
        for each in tree_iter(result)
        if isinstance(each, torch.Tensor)
    ]
    assert sizes == [0, 0, 8, 8]  # the table and its sum; what pixels are added to, and what is returned
