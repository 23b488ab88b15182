"""The examples of docs/serving.md, run as they stand there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from tests.fixtures.drawn_pages import as_file, drawn_page
from tests.fixtures.service_process import running_service

PAGE = Path(__file__).parents[3] / "docs" / "serving.md"


@pytest.mark.slow
def test_the_examples_read_a_page(tmp_path: Path) -> None:
    examples = PAGE.read_text().split("test_documented_requests.py: begin -->")[1].split("<!-- run: end")[0]
    found = re.findall(r"```(bash|python)\n(.*?)```", examples, flags=re.DOTALL)
    assert [language for language, _ in found].count("bash") == 4
    (tmp_path / "page.png").write_bytes(as_file(drawn_page("an example")))
    with running_service(tmp_path) as service:
        files = {"file": (tmp_path / "page.png").read_bytes()}
        pages = requests.post(f"{service.url}/v1/ocr", files=files, timeout=300).json()["pages"]
        for language, code in found:
            program = ["bash", "-euc", code] if language == "bash" else [sys.executable, "-c", code]
            answer = subprocess.run(
                program, cwd=tmp_path, env=os.environ | {"SERVICE": service.url}, capture_output=True, text=True
            )
            assert answer.returncode == 0, answer.stderr
            if language == "python":
                assert answer.stdout == pages[0]["text"]
            else:
                assert "tiny-base" in answer.stdout
