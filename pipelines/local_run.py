"""The process in which KFP's local runner works: ``python -m pipelines.local_run JOB.json``.

``deepsynth run`` starts it in a process group of its own, with its output in the run's log, and holds the other
end of its standard input: when that closes, ``deepsynth run`` is gone and the group ends itself.
"""

import json
import os
import signal
import sys
import tempfile
import threading
from pathlib import Path

from pipelines.local_compilation import compiled_without_unset_parameters


def main(job_file: str) -> int:
    """Run the pipeline that the job describes; return 0, or 1 where a task failed."""
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    from kfp import local

    with tempfile.TemporaryDirectory(prefix="deepsynth-") as scratch:
        root = _root_without_python3(Path(job["pipeline_root"]), Path(scratch))
        runner = local.SubprocessRunner(use_venv=False)
        local.init(runner, pipeline_root=str(root), workspace_root=str(Path(scratch) / "workspace"))
        try:
            package = Path(scratch) / "pipeline.yaml"
            compiled_without_unset_parameters(package, job["prepare_partitions"])(config=job["config"])
        except RuntimeError as error:
            print(error, file=sys.stderr)
            return 1
    return 0


def _root_without_python3(root: Path, scratch: Path) -> Path:
    """Return a link to ``root`` where its path holds ``python3``, which KFP would replace by the interpreter's path."""
    if "python3" not in str(root):
        return root
    link = scratch / "root"
    link.symlink_to(root, target_is_directory=True)
    return link


def _end_with_the_parent() -> None:
    # Not sys.stdin: its lock, held by this thread, would abort the interpreter's shutdown.
    while os.read(0, 1024):
        pass
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
