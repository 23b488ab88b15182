"""images/install-environment.sh: a .venv that an interrupted or another program's attempt left is made good."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "images" / "install-environment.sh"


def installed(folder: Path, python: str) -> subprocess.CompletedProcess[str]:
    """Run the script in ``folder``, where the lists of packages are missing: it stops before it asks an index."""
    (folder / "images").mkdir(exist_ok=True)
    shutil.copy(SCRIPT, folder / "images")
    variables = {"PATH": "/usr/bin:/bin", "PYTHON": python}
    command = ["bash", "images/install-environment.sh"]
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=300)


@pytest.mark.slow  # installs pip
def test_an_environment_without_pip_gets_it(tmp_path: Path) -> None:
    """Debian's venv leaves one where python3-venv is missing; after installing that, `make` works."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / ".venv"], check=True, timeout=300)
    done = installed(tmp_path, sys.executable)
    assert done.returncode != 0 and "images/requirements.py" in done.stderr, "it went on to the packages"
    pip = [tmp_path / ".venv" / "bin" / "python", "-m", "pip", "--version"]
    assert subprocess.run(pip, capture_output=True, timeout=300).returncode == 0


def test_a_python_that_makes_no_environment_is_named(tmp_path: Path) -> None:
    """As Debian's without python3-venv: it is new enough, and its `-m venv` fails."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\n[ "$2" = venv ] && exit 1\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    done = installed(tmp_path, str(python))
    assert done.returncode == 2
    assert done.stderr == f"error: {python} made no .venv; on Debian, as root: apt-get install python3-venv\n"
