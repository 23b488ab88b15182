"""How high the letters of the training pages are, as the model saw them: the packaged script warns of other pages."""

from dataclasses import asdict, dataclass

import numpy as np
from transformers import ProcessorMixin

from components.export.config import ExportConfig
from components.export.package.inputs import PackageSources
from components.shared.datasets.letter_height import letter_height
from components.shared.datasets.shard_reader import ShardDataset
from components.shared.models.model_families import ModelFamily
from components.shared.page_reader.letters import seen_scale
from components.shared.reading.image_text_inputs import generation_inputs

_MOST_PAGES = 32
_OUTERMOST = (5, 50, 95)  # percentiles


@dataclass(frozen=True)
class TrainedLetters:
    """Percentiles of the pages' median letter heights.

    Attributes:
        pages: pages that were measured.
        low, median, high: as the model saw them, see ``seen_scale``.
        lowest_pixels, highest_pixels: in the pages' own pixels.
    """

    pages: int
    low: float
    median: float
    high: float
    lowest_pixels: float
    highest_pixels: float

    def as_json(self) -> dict[str, float]:
        return asdict(self)


def trained_letters(
    config: ExportConfig, sources: PackageSources, processor: ProcessorMixin, family: ModelFamily
) -> TrainedLetters | None:
    """Measure pages spread evenly over the train split.

    Args:
        processor: with the evaluation's image settings, as ``family``.

    Returns:
        None if the adapter was trained on another dataset, its shards are not here, or no page has enough text.
    """
    split = sources.manifest.splits.get("train")
    shards = split.shardlist if split else []
    here = all((config.dataset_dir / shard.url).is_file() for shard in shards)
    if not sources.trained_on_this_dataset or split is None or not split.samples or not here:
        return None
    dataset = ShardDataset(config.dataset_dir, "train", verify=False)
    rows = np.unique(np.linspace(0, len(dataset) - 1, _MOST_PAGES).round().astype(int))
    measured: list[tuple[float, float]] = []
    for row in rows.tolist():
        try:
            image = dataset[row].image
        except OSError:
            continue  # the train step counted it
        if (pixels := letter_height(image)) is not None:
            inputs = generation_inputs(processor, family, [image], [None])
            measured.append((pixels, pixels * seen_scale(image.size, inputs)))
    if not measured:
        return None
    pixels, seen = np.percentile(np.array(measured), _OUTERMOST, axis=0).T.round(2).tolist()
    low, median, high = seen
    return TrainedLetters(len(measured), low, median, high, round(pixels[0]), round(pixels[2]))
