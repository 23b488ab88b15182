"""A virtual environment with a package's requirements.txt installed, and nothing else."""

import logging
import os
import subprocess
import sys
from pathlib import Path

from components.shared.errors import UserError
from components.shared.programs.parent_watch import ending_with_parent

logger = logging.getLogger(__name__)

_SECONDS = 1800


def fresh_python(requirements: Path, folder: Path) -> str:
    """Create ``folder/environment``, install ``requirements`` with pip's own settings, and return its Python.

    Raises:
        UserError: pip cannot install them.
    """
    environment = folder / "environment"
    create = [sys.executable, "-m", "venv", str(environment)]
    subprocess.run(ending_with_parent(create), check=True, capture_output=True)
    python = str(environment / "bin" / "python")
    command = [python, "-m", "pip", "install", "--quiet", "--no-input", "--requirement", str(requirements)]
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    try:
        subprocess.run(ending_with_parent(command), env=variables, check=True, capture_output=True, timeout=_SECONDS)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        last = (error.stderr or b"").decode("utf-8", "replace").strip().splitlines()[-1:] or [f"over {_SECONDS} s"]
        raise UserError(
            f"pip cannot install the package's requirements ({last[0]})",
            where=requirements.name,
            mend="give pip an index or a folder of wheels (PIP_NO_INDEX=1, PIP_FIND_LINKS), or turn"
            " fresh_environment off",
        ) from error
    logger.info("installed %s in a new environment", ", ".join(requirements.read_text().split()))
    return python
