"""The one line that Kubernetes keeps of a container that ended: KFP's pages show it beside the failed task.

KFP's launcher ends with 1 whatever its step's exit code is, so the line is all that tells whose fault it was.
"""

import logging
import os
from pathlib import Path

logger = logging.getLogger(__name__)

FILE_VARIABLE = "DEEPSYNTH_TERMINATION_LOG"
"""names another file than Kubernetes' own"""
_KUBERNETES_FILE = Path("/dev/termination-log")
_MOST_BYTES = 4096  # the kubelet reads no more of it


def leave_termination_message(text: str) -> None:
    """Write ``text``, cut to 4096 bytes; nothing outside of Kubernetes, whose kubelet makes the file."""
    named = os.environ.get(FILE_VARIABLE)
    path = Path(named) if named else _KUBERNETES_FILE
    if not named and not path.is_file():
        return
    try:
        path.write_bytes(text.encode("utf-8")[:_MOST_BYTES].decode("utf-8", errors="ignore").encode("utf-8"))
    except OSError as error:
        logger.warning("the termination message cannot be written to %s: %s", path, error.strerror)
