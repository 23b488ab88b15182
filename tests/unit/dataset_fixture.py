"""Datasets for tests, written by the contract alone: shards and a manifest without the prepare step."""

import hashlib
import io
import json
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from components.shared.dataset_manifest import MANIFEST_FILE, manifest_digest
from components.shared.lineage import sha256_file, sha256_json


@dataclass(frozen=True)
class Page:
    """A page to write; without ``image_bytes`` its text is drawn."""

    text: str
    source_id: str
    page: int = 1
    lang: str = "en"
    instruction: str | None = None
    image_bytes: bytes | None = None
    font: str = "test"


def drawn(text: str, size: int = 20) -> bytes:
    """Return the text as a PNG on a grid of 28 pixels, which is what the tiny models' cells are."""
    font = ImageFont.load_default(size)
    draw = ImageDraw.Draw(Image.new("L", (1, 1)))
    right, bottom = draw.textbbox((8, 8), text, font=font)[2:]
    shape = [int(-(-(length + 8) // 28) * 28) for length in (right, bottom)]
    image = Image.new("L", (shape[0], shape[1]), 255)
    ImageDraw.Draw(image).text((8, 8), text, font=font, fill=0)
    stream = io.BytesIO()
    image.save(stream, format="PNG")
    return stream.getvalue()


def write_dataset(folder: Path, pages: list[Page], training: list[Page] | None = None, **config: object) -> str:
    """Write ``pages`` as the eval split; return the dataset's digest.

    The train split is ``training``, or the first page again as a document of its own.
    """
    folder.mkdir(parents=True)
    trained_on = [replace(pages[0], source_id="training")] if training is None else training
    splits = {
        name: {"wids_version": 1, "shardlist": [_write_shard(folder / f"{name}-000000.tar", name, part)]}
        for name, part in (("train", trained_on), ("eval", pages))
    }
    content = {
        "schema_version": 1,
        "digest": "",
        "splits": splits,
        "documents": {
            "train": len({page.source_id for page in trained_on}),
            "eval": len({page.source_id for page in pages}),
        },
        "dropped": {},
        "source_digest": sha256_json([page.text for page in pages]),
        "config": {"source": "dataset_fixture", **config},
        "config_digest": sha256_json({"source": "dataset_fixture"}),
        "fonts": {},
        "layout_engine": "basic",
        "tool_version": "test",
    }
    content["digest"] = manifest_digest(content)
    (folder / MANIFEST_FILE).write_text(json.dumps(content), encoding="utf-8")
    return str(content["digest"])


def _write_shard(path: Path, split: str, pages: list[Page]) -> dict[str, object]:
    with tarfile.open(path, "w") as archive:
        for index, page in enumerate(pages):
            image = page.image_bytes if page.image_bytes is not None else drawn(page.text)
            metadata = {
                "text": page.text,
                "task": "transcribe",
                "source_id": page.source_id,
                "page": page.page,
                "pages": 1,
                "lang": page.lang,
                "font": page.font,
                "resolution": [0, 0],
                "instruction": page.instruction,
                "sha256": hashlib.sha256(image).hexdigest(),
            }
            for name, data in (("png", image), ("json", json.dumps(metadata).encode())):
                member = tarfile.TarInfo(f"{split}-{index:08d}.{name}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return {"url": path.name, "nsamples": len(pages), "filesize": path.stat().st_size, "sha256": sha256_file(path)}
