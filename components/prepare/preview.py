"""A page of the first samples with their labels: what a person looks at before a long training."""

import base64
from pathlib import Path
from typing import Any

import jinja2

from components.shared.dataset_manifest import DatasetManifest
from components.shared.shard_reader import ShardDataset

PREVIEW_FILE = "preview.html"
_SAMPLES_PER_SPLIT = 12

_TEMPLATE = jinja2.Environment(autoescape=True).from_string("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Dataset preview</title><style>
:root { color-scheme: light dark; } body { font: 15px/1.5 system-ui, sans-serif; margin: 1rem auto; max-width: 70rem;
padding: 0 1rem; } table { border-collapse: collapse; } td, th { text-align: left; padding: .2rem 1rem .2rem 0; }
article { border-top: 1px solid #8886; padding: .8rem 0; display: flex; flex-wrap: wrap; gap: 1rem; }
img { max-width: 100%; border: 1px solid #8886; align-self: start; } pre { white-space: pre-wrap; margin: 0; }
.about { color: #888; font-size: .85rem; } div { flex: 1 1 18rem; }</style></head><body>
<h1>Dataset preview</h1>
<table>{% for name, value in facts %}<tr><th>{{ name }}</th><td>{{ value }}</td></tr>{% endfor %}</table>
{% for split, samples in splits %}<h2>{{ split }}: the first {{ samples|length }} pages</h2>
{% for sample in samples %}<article><img alt="page {{ sample.key }}" src="data:image;base64,{{ sample.picture }}">
<div><pre dir="auto">{{ sample.text }}</pre><p class="about">{{ sample.about }}</p></div></article>{% endfor %}
{% endfor %}</body></html>
""")


def write_preview(folder: Path, manifest: DatasetManifest) -> None:
    """Write ``preview.html`` into a dataset folder that is otherwise complete."""
    splits = [
        (split, _first_samples(ShardDataset(folder, split)))
        for split, index in manifest.splits.items()
        if index.samples
    ]
    facts = [
        *((f"{split} pages", index.samples) for split, index in manifest.splits.items()),
        *((f"{split} documents", count) for split, count in manifest.documents.items()),
        *((f"dropped: {reason}", count) for reason, count in manifest.dropped.items()),
        ("digest", manifest.digest),
    ]
    (folder / PREVIEW_FILE).write_text(_TEMPLATE.render(facts=facts, splits=splits), encoding="utf-8")


def _first_samples(dataset: ShardDataset) -> list[dict[str, Any]]:
    return [
        {
            "key": sample.key,
            "text": sample.text,
            "picture": base64.b64encode(sample.image_bytes).decode("ascii"),
            "about": "{source_id}, page {page} of {pages}, {font} {font_size} px, {resolution}".format(
                **sample.metadata
            ),
        }
        for sample in (dataset[number] for number in range(min(_SAMPLES_PER_SPLIT, len(dataset))))
    ]
