"""Each family of the matrix has a memory estimate, and its known parts are right."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from components.train.estimate.step_trace import MemoryTrace
from tests.fixtures.estimated_families import check_by_arithmetic, estimated
from tests.fixtures.family_table import FAMILY_TABLE
from tests.fixtures.tiny_families import TINY_FAMILIES
from tests.fixtures.torchvision_without_operators import obstacle_to_torchvision

NEED_TORCHVISION = [row.model_type for row in FAMILY_TABLE if row.status == "needs torchvision"]


@pytest.mark.slow
@pytest.mark.parametrize("model_type", TINY_FAMILIES)
def test_a_family_is_estimated(model_type: str, tmp_path: Path) -> None:
    check_by_arithmetic(estimated(TINY_FAMILIES[model_type], tmp_path))


@pytest.mark.slow
@pytest.mark.skipif(obstacle_to_torchvision() is not None, reason=str(obstacle_to_torchvision()))
def test_the_families_that_need_torchvision_are_estimated() -> None:
    command = [sys.executable, "-m", "tests.fixtures.estimated_families", *NEED_TORCHVISION]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [row["family"] for row in rows] == NEED_TORCHVISION
    for row in rows:
        check_by_arithmetic(row)


def test_a_shape_that_depends_on_values_is_that_of_the_values() -> None:
    trace = MemoryTrace(vocabulary=7)
    tokens = torch.tensor([[1, 5, 5], [5, 2, 3]])
    with trace:
        known = torch.empty_like(tokens, device="meta")
        trace.values.learn(known, tokens)
        mask = (known == 5).unsqueeze(-1).expand(2, 3, 4).to("meta")[..., 0]
        hidden = torch.empty(2, 3, 4, device="meta", requires_grad=True)
        chosen = hidden[mask]
        assert chosen.shape == (3, 4) and mask.nonzero().shape == (3, 2)
        assert int(known.max()) == 5
        copy = hidden.clone()
        copy[mask, :] = chosen + 1
        copy.sum().backward()
        assert hidden.grad is not None and hidden.grad.shape == hidden.shape
        known[0, 0] = 5  # its values are not known any more: any number of elements may be 5
        assert hidden[known == 5].shape == (6, 4)
