"""Pages of documents that were trained on prove nothing: a split that contains any is refused."""

import logging
from pathlib import Path
from typing import Any

from components.shared.artifacts.dataset_manifest import Split
from components.shared.artifacts.evaluation_report import TrainingDocuments
from components.shared.artifacts.training_record import training_record
from components.shared.datasets.shard_reader import ShardDataset
from components.shared.errors import UserError

logger = logging.getLogger(__name__)

_NAMED_IDS = 10
_MEND = "prepare the data again: train and eval never share a document there; split 'train' reads the training's pages"


def check_training_documents(dataset: ShardDataset, split: Split) -> TrainingDocuments:
    """Compare the documents of the evaluated split with those of the train split beside it.

    In a dataset of one source, a ``source_id`` is a document. With several sources, ids can be equal by chance (two
    folders with a ``0001.txt``); there, a document is shared if an equal id comes with a page of equal text. Only the
    pages' metadata are read, not the pictures: 7 us a page of the quickstart, and 33 us to find it in its shard.

    Raises:
        UserError: the splits share documents; the error names them.
    """
    if split == "train":
        return "these are the pages"
    manifest = dataset.manifest
    train = manifest.splits.get("train")
    if train is None or not train.samples:
        return "none among these pages"
    if not all((dataset.folder / shard.url).is_file() for shard in train.shardlist):
        logger.warning("the train split's shards are not in %s: shared documents cannot be detected", dataset.folder)
        return "not checked: no shards of the train split"
    several = bool(manifest.config.get("holdout") or manifest.config.get("more_sources"))
    trained_on = ShardDataset(dataset.folder, "train", verify=False)
    common = _documents(dataset, several) & _documents(trained_on, several)
    if common:
        raise _refusal(dataset.folder, sorted({document[0] for document in common}))
    return "none among these pages"


def training_documents_of(
    name: str, folder: Path, dataset: ShardDataset, beside: TrainingDocuments
) -> TrainingDocuments:
    """Return what is known about the documents that a fine-tuned model was trained on.

    ``beside`` is the answer for this dataset's own train split. About another dataset nothing is known: prepared with
    another seed, ``eval_fraction`` or ``holdout``, it held out other documents.
    """
    training = training_record(folder)
    if training and training.dataset_digest == dataset.manifest.digest:
        return beside
    said: TrainingDocuments = (
        "not checked: trained on another dataset" if training else "not checked: no training.json says on what"
    )
    logger.warning("%s: %s; it is not known whether it has seen these pages", name, said)
    return said


def _documents(dataset: ShardDataset, with_text: bool) -> set[tuple[str, int | None]]:
    return {_document(dataset.metadata(index), with_text) for index in range(len(dataset))}


def _document(metadata: dict[str, Any], with_text: bool) -> tuple[str, int | None]:
    # The text's hash instead of the text: 60 MB for a million pages instead of gigabytes.
    return str(metadata["source_id"]), hash(metadata["text"]) if with_text else None


def _refusal(folder: Path, ids: list[str]) -> UserError:
    named = ", ".join(ids[:_NAMED_IDS]) + (f" and {len(ids) - _NAMED_IDS} more" if len(ids) > _NAMED_IDS else "")
    return UserError(
        f"the eval split shares {len(ids)} document(s) with training: {named}", where=str(folder), mend=_MEND
    )
