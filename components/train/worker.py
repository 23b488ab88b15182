"""One process of a training on several GPUs; ``launch.py`` starts it: ``python -m components.train.worker FOLDER``."""

import ctypes
import json
import os
import signal
import sys
from pathlib import Path

from components.shared.errors import EXIT_CODE_USER_ERROR, UserError
from components.shared.programs.cpu_threads import limit_threads
from components.shared.programs.machine_failures import causes_of, named_failures
from components.shared.telemetry.logs import configure_logs
from components.train.config import TrainConfig

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(folder: Path) -> int:
    """Train with the config in ``folder`` and return the exit code; an error is written there for the parent."""
    # A parent killed by SIGKILL (out of memory, for instance) cannot send a signal, and torchrun started this process
    # in its own session: let the kernel send SIGTERM when the parent dies.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    # Otherwise each process's PyTorch uses all cores. Set it before the import: PyTorch reads the variable once.
    limit_threads(int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    from components.train.processes.launch import CONFIG_FILE, error_file, smaller_batch
    from components.train.step import run

    configure_logs("train")
    config = TrainConfig.model_validate_json((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    try:
        with named_failures("train", config):
            run(config, smaller_batch(folder))
    except UserError as error:
        _leave_smaller_batch_of(error, folder)
        said = error_file(folder, int(os.environ["RANK"]))
        said.write_text(json.dumps(str(error)), encoding="utf-8")
        return EXIT_CODE_USER_ERROR
    except KeyboardInterrupt:
        return 130
    return 0


def _leave_smaller_batch_of(error: UserError, folder: Path) -> None:
    """If the training ran out of memory and may be tried with a smaller batch, tell the parent."""
    from components.train.loop.training import OutOfMemoryWhileTrainingError
    from components.train.processes.launch import leave_smaller_batch

    for cause in causes_of(error):
        if isinstance(cause, OutOfMemoryWhileTrainingError) and cause.smaller_plan:
            leave_smaller_batch(folder, cause.smaller_plan.halvings)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
