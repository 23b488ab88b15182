"""What does not depend on pixels is computed once, and the features stay the same; tests/gpu records the rest."""

from typing import Any

import pytest
import torch

from components.shared.reading.segment_attention import attend_by_segment_length
from components.train.vision.fixed_work import FixedWork, NotSeparableError, ReadsPixelsError
from tests.fixtures.packed_encoders import GRIDS, PACKED_ENCODERS, features, packed_encoder, pixels


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
