"""Every step killed with SIGKILL once at a random moment: the rerun gives the bytes of an undisturbed run."""

from pathlib import Path

import pytest

from tests.benchmarks.killed_steps import STEPS, Chain, killed

pytestmark = pytest.mark.slow


def test_every_step_gives_the_same_bytes_after_a_kill(tmp_path: Path) -> None:
    chain = Chain(tmp_path, probes=False)
    kills = killed(chain, moments=len(STEPS), seed=3)
    assert [kill.step for kill in kills] == list(STEPS)
    assert not list((tmp_path / "temporary").iterdir()), "a temporary file was left"
