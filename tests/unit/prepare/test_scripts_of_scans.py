"""Pages that exist as pictures need no font for their script; drawn pages do."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.prepare.config import PrepareConfig
from components.prepare.step import run
from components.shared.errors import UserError


def test_chinese_scans_need_no_font_and_chinese_texts_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    for kind in ("scans", "texts"):
        (tmp_path / kind).mkdir()
        for number in range(3):
            (tmp_path / kind / f"{number}.txt").write_text("\u4e2d\u6587\u65e5\u672c" * (number + 2), encoding="utf-8")
    for number in range(3):
        levels = np.full((60, 90), 40 * number, np.uint8)
        Image.fromarray(levels).save(tmp_path / "scans" / f"{number}.png")
    look = {"fonts": ["DejaVuSans.ttf"], "workers": 1, "eval_fraction": 0, "near_duplicate_threshold": None}
    config = PrepareConfig(output_dir=tmp_path / "a", source=f"images:{tmp_path / 'scans'}", **look)
    assert run(config).splits["train"].samples == 3
    with pytest.raises(UserError, match="no font covers Han"):
        run(PrepareConfig(output_dir=tmp_path / "b", source=str(tmp_path / "texts"), **look))
