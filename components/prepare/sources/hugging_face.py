"""Documents from a dataset on the Hugging Face hub, streamed."""

from collections.abc import Iterator

from components.prepare.config import PrepareConfig
from components.prepare.sources.document import Document
from components.prepare.sources.files import check_columns, document_of_row
from components.shared.errors import UserError
from components.shared.hub import hub_is_reachable
from components.shared.lineage import sha256_json


def read_hugging_face(name: str, config: PrepareConfig) -> Iterator[Document]:
    """Yield the rows of ``config.source_split``, in order, without downloading the whole dataset.

    Raises:
        UserError: no network, no such dataset, configuration, split or column.
    """
    _need_the_hub(name)
    import datasets

    try:
        rows = datasets.load_dataset(
            name, config.source_name, split=config.source_split, revision=config.source_revision, streaming=True
        )
        if rows.column_names:
            check_columns(list(rows.column_names), config, where=f"hf:{name}")
        for number, row in enumerate(rows, start=1):
            yield document_of_row(row, f"{name}:{number}", config)
    except (OSError, ValueError) as error:
        raise UserError(f"the dataset cannot be read ({error})", where=f"hf:{name}") from error


def hugging_face_digest(name: str, config: PrepareConfig) -> str:
    """Return a digest over the dataset's name and the commit that the revision stands for.

    Raises:
        UserError: no network, or no such dataset.
    """
    _need_the_hub(name)
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        commit = HfApi().dataset_info(name, revision=config.source_revision).sha
    except (HfHubHTTPError, OSError) as error:
        raise UserError(f"the dataset cannot be found ({error})", where=f"hf:{name}") from error
    return sha256_json([name, commit, config.source_name, config.source_split])


def _need_the_hub(name: str) -> None:
    if not hub_is_reachable():
        raise UserError(
            "a Hugging Face dataset needs a network, and the hub cannot be reached",
            where=f"hf:{name}",
            mend="use a file or folder as source, or connect and try again",
        )
