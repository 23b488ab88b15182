"""The termination message: the one line that Kubernetes keeps of a container, and that KFP shows at a failed task.

KFP's launcher exits with 1 whatever the step's exit code is, so only this line says what went wrong.
"""

import logging
import os
from pathlib import Path

from components.shared.errors import without_passwords

logger = logging.getLogger(__name__)

FILE_VARIABLE = "DEEPSYNTH_TERMINATION_LOG"
"""names a file to write instead of Kubernetes' own"""
_KUBERNETES_FILE = Path("/dev/termination-log")
_MOST_BYTES = 4096  # the kubelet reads no more


def leave_termination_message(text: str) -> None:
    """Write ``text`` without passwords, cut to 4096 bytes; do nothing outside of Kubernetes, where there is no file."""
    named = os.environ.get(FILE_VARIABLE)
    path = Path(named) if named else _KUBERNETES_FILE
    if not named and not path.is_file():
        return
    text = without_passwords(text)
    try:
        path.write_bytes(text.encode("utf-8")[:_MOST_BYTES].decode("utf-8", errors="ignore").encode("utf-8"))
    except OSError as error:
        logger.warning("the termination message cannot be written to %s: %s", path, error.strerror)
