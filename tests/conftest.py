"""What every test needs."""

import gc
import inspect
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


# A worker gets whole files, in this order. One that takes minutes must not be the last, while the other worker idles.
LONGEST = (
    *("test_several_processes", "test_local_run", "test_champion", "test_fan_out", "test_resume", "test_estimate"),
    *("test_tracking_server", "test_deepseek_family", "test_train", "test_vision_features", "test_export"),
    *("test_evaluate", "test_benchmark", "test_submit", "test_families", "test_same_bytes", "test_killed"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


def pytest_collection_finish() -> None:
    """Leave out of later garbage collections what is imported now: a collection took 1.3 s with all modules."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def quick_stacks() -> Iterator[None]:
    """Have KFP's compiler look at the names of its callers and at nothing else of the stack.

    It reads the whole stack 40 times per pipeline to name a caller. ``inspect.stack`` looks for the module of a frame
    without a file, which pytest and xdist have, among all modules: with torch and transformers loaded, seconds.
    """

    def stack() -> list[inspect.FrameInfo]:
        frame, found = sys._getframe(1), []
        while frame:
            code = frame.f_code
            found.append(inspect.FrameInfo(frame, code.co_filename, frame.f_lineno, code.co_name, None, None))
            frame = frame.f_back  # type: ignore[assignment]
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inspect, "stack", stack)
        yield


@pytest.fixture(autouse=True, scope="session")
def interruptible_children() -> Iterator[None]:
    """Let the programs that tests start be interrupted.

    A shell without job control starts background jobs with SIGINT ignored, and their children inherit that.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True, scope="session")
def one_migration(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Have MLflow make its tables once per process, unless no test in this session needs MLflow."""
    if "mlflow" not in sys.modules:
        yield
        return
    from tests.fixtures.store_tables import tables_made_once

    with tables_made_once(tmp_path_factory.mktemp("mlflow") / "tables.db"):
        yield
