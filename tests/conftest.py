"""What every test needs."""

import os
import signal
import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

# Hypothesis's own profile: the same examples in each run, and no limit on their time, which a busy machine exceeds.
# `pytest --hypothesis-profile default` looks for new examples.
settings.load_profile("ci")

# Programs that tests start import much of this project. Compiled anew, that takes 0.4 s of CPU time of each.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# pytest-xdist starts a worker per core. Tiny models on two threads in each took 117 s of CPU time where one took 45.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True, scope="session")
def interruptible_children() -> Iterator[None]:
    """Let the programs that tests start be interrupted.

    A shell without job control starts background jobs with SIGINT ignored, and their children inherit that.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
