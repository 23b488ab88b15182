"""Shared by the tests of whole runs."""

from pathlib import Path

import pytest

from components.shared.tiny_base_recipe.tiny_models import save_blank_paddleocr_vl


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A blank base model: no test writes into its folder."""
    folder = tmp_path_factory.mktemp("model") / "blank"
    save_blank_paddleocr_vl(folder)
    return folder
