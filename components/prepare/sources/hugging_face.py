"""Streams documents from a dataset on the Hugging Face hub."""

from collections.abc import Iterator

from components.prepare.documents.document import Document
from components.prepare.settings.source_settings import SourceSettings
from components.prepare.sources.tables.rows import check_columns, document_of_row, named_columns
from components.shared.digests import sha256_json
from components.shared.errors import UserError
from components.shared.models.hub import hub_is_reachable, named_refusals


def read_hugging_face(name: str, settings: SourceSettings) -> Iterator[Document]:
    """Yield the rows of ``settings.source_split`` in order, without downloading the whole dataset.

    Raises:
        UserError: no network, no such dataset, configuration, split or column, or a rejected token.
    """
    commit = _commit(name, settings)
    import datasets
    from datasets.exceptions import DatasetsError

    try:
        rows = datasets.load_dataset(
            name, settings.source_name, split=settings.source_split, revision=commit, streaming=True
        )
        if rows.column_names:
            check_columns(list(rows.column_names), settings, where=f"hf:{name}")
            rows = rows.select_columns(named_columns(settings))  # otherwise pictures and sounds would be decoded too
        for number, row in enumerate(rows, start=1):
            yield document_of_row(row, f"{name}:{number}", settings)
    except (OSError, ValueError, DatasetsError) as error:
        raise UserError(f"the dataset cannot be read ({error})", where=f"hf:{name}") from error


def hugging_face_digest(name: str, settings: SourceSettings) -> str:
    """Return a digest of the dataset's name and the commit that the revision resolves to.

    Raises:
        UserError: no network, no such dataset, or a rejected token.
    """
    return sha256_json([name, _commit(name, settings), settings.source_name, settings.source_split])


def _commit(name: str, settings: SourceSettings) -> str | None:
    if not hub_is_reachable():
        raise UserError(
            "a Hugging Face dataset needs a network, and the hub cannot be reached",
            where=f"hf:{name}",
            mend="use a file or folder as source, or connect and try again",
        )
    from huggingface_hub import HfApi

    with named_refusals(f"hf:{name}"):
        commit: str | None = HfApi().dataset_info(name, revision=settings.source_revision).sha
    return commit
