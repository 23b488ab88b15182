"""Everything that reads foreign bytes, fuzzed for five minutes in all: errors for users, and nothing else."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TARGETS = ("tables", "pdfs", "scan_texts", "encodings", "pictures", "settings", "adapters", "packages", "templates")
SECONDS = 300 // len(TARGETS)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_foreign_bytes_give_errors_for_users_only(target: str, tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="atheris has wheels for Linux on x86-64 only")
    command = [sys.executable, "-m", "tests.hostile.fuzz", target, "--seconds", str(SECONDS)]
    command += ["--findings", str(tmp_path / "findings")]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace")
    assert answer.returncode == 0, answer.stderr[-6000:]
    assert "Done " in answer.stderr and not list((tmp_path / "findings").glob("*"))
