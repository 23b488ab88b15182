"""The evaluated pages on which the package and the merged weights are checked."""

from dataclasses import dataclass

from components.export.config import ExportConfig
from components.export.package.inputs import PackageSources
from components.shared.datasets.shard_reader import Sample, ShardDataset
from components.shared.errors import UserError
from components.shared.scoring.text_normalization import Profile, normalizer


@dataclass(frozen=True)
class CheckedPages:
    """Pages that the evaluation transcribed without an error, with the adapter's text.

    Attributes:
        instruction: the prompt that all these pages share; None for the model family's.
        pages: in the dataset's order.
        predictions: the adapter's text for each page.
        telling: whether the base's text differs, so that a reading without the adapter would be noticed.
    """

    instruction: str | None
    pages: list[Sample]
    predictions: list[str]
    telling: list[bool]

    def most_telling(self, normalization: Profile) -> tuple[Sample, str, bool]:
        """Return a page, its prediction, and whether it is telling: the first such page, else the first with text."""
        normalise = normalizer(normalization)
        with_text = [index for index, text in enumerate(self.predictions) if normalise(text).strip()]
        found = next((index for index in with_text if self.telling[index]), with_text[0] if with_text else 0)
        return self.pages[found], self.predictions[found], self.telling[found]


def checked_pages(config: ExportConfig, sources: PackageSources, count: int) -> CheckedPages:
    """Return the first ``count`` pages that have the instruction of the first evaluated page.

    If none of them is telling, the first telling page replaces the last one.

    Raises:
        UserError: every page failed in the evaluation, or its pages are not in the dataset.
    """
    dataset = ShardDataset(config.dataset_dir, sources.report.dataset.split)
    predictions = {row["key"]: row["prediction"] for row in sources.predictions if row["error"] is None}
    telling = _telling_keys(sources, predictions)
    pages: list[Sample] = []
    for index in range(len(dataset)):
        page = dataset[index]
        if page.key in predictions and (not pages or page.instruction == pages[0].instruction):
            if len(pages) < count:
                pages.append(page)
            elif page.key in telling:
                pages[-1] = page
        if len(pages) == count and (not telling or any(page.key in telling for page in pages)):
            break
    if not pages:
        raise UserError(
            "no page of the dataset was transcribed by the adapter",
            where=str(config.evaluation_dir),
            mend="read the errors in samples.parquet, and evaluate again",
        )
    texts = [predictions[page.key] for page in pages]
    return CheckedPages(pages[0].instruction, pages, texts, [page.key in telling for page in pages])


def _telling_keys(sources: PackageSources, predictions: dict[str, str]) -> set[str]:
    normalise = normalizer(sources.report.normalization)
    texts = {key: normalise(text) for key, text in predictions.items()}
    base_texts = {key: normalise(sources.base_texts[key]) for key in texts.keys() & sources.base_texts.keys()}
    return {key for key, text in texts.items() if text.strip() and text != base_texts.get(key, text)}
