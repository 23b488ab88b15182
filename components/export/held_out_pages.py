"""The evaluated pages on which package and merged weights are checked."""

from dataclasses import dataclass

from components.export.config import ExportConfig
from components.export.sources import PackageSources
from components.shared.errors import UserError
from components.shared.shard_reader import Sample, ShardDataset
from components.shared.text_normalization import Profile, normalizer


@dataclass(frozen=True)
class CheckedPages:
    """Pages that the evaluation transcribed without an error, with what the adapter wrote.

    Attributes:
        instruction: the prompt that all these pages share; None for the model family's.
        pages: in the dataset's order.
        predictions: the adapter's text of each.
    """

    instruction: str | None
    pages: list[Sample]
    predictions: list[str]

    def most_telling(self, normalization: Profile) -> tuple[Sample, str]:
        """Return the first page whose prediction holds text, else the first page."""
        normalise = normalizer(normalization)
        found = next((index for index, text in enumerate(self.predictions) if normalise(text).strip()), 0)
        return self.pages[found], self.predictions[found]


def checked_pages(config: ExportConfig, sources: PackageSources, count: int) -> CheckedPages:
    """Return the first ``count`` pages that have the instruction of the first evaluated page.

    Raises:
        UserError: every page failed in the evaluation, or its pages are not in the dataset.
    """
    dataset = ShardDataset(config.dataset_dir, sources.report["dataset"]["split"])
    predictions = {row["key"]: row["prediction"] for row in sources.predictions if row["error"] is None}
    pages: list[Sample] = []
    for index in range(len(dataset)):
        page = dataset[index]
        if page.key in predictions and (not pages or page.instruction == pages[0].instruction):
            pages.append(page)
        if len(pages) == count:
            break
    if not pages:
        raise UserError(
            "no page of the dataset was transcribed by the adapter",
            where=str(config.evaluation_dir),
            mend="see the errors in samples.parquet, and evaluate again",
        )
    return CheckedPages(pages[0].instruction, pages, [predictions[page.key] for page in pages])
