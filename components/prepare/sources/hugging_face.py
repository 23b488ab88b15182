"""Streams documents from a dataset on the Hugging Face hub."""

from collections.abc import Iterator
from dataclasses import dataclass

from components.prepare.documents.document import Document, Unreadable
from components.prepare.documents.reading_tasks import ReadItem
from components.prepare.documents.source_reading import SourceReading
from components.prepare.settings.source_settings import SourceSettings
from components.shared.digests import sha256_json
from components.shared.errors import UserError
from components.shared.models.hub import hub_is_reachable, named_refusals


@dataclass(frozen=True)
class HubTask:
    """A dataset on the hub; ids begin with its name.

    It is no ``TableTask``: ``datasets`` decodes many rows before it gives one, so which of them ended a process is not
    known.
    """

    source_id: str

    @property
    def where(self) -> str:
        return f"hf:{self.source_id}"


def read_hub_task(reading: SourceReading, task: HubTask) -> Iterator[ReadItem]:
    """Yield what ``read_hugging_face`` gives for the dataset of a task."""
    yield from reading.with_notes(read_hugging_face(task.source_id, reading))


def read_hugging_face(name: str, reading: SourceReading) -> Iterator[Document | Unreadable]:
    """Yield the rows of ``settings.source_split`` in order, without downloading the whole dataset.

    Raises:
        UserError: no network, no such dataset, configuration, split or column, or a rejected token.
    """
    settings = reading.settings
    commit = _commit(name, settings)
    import datasets
    from datasets.exceptions import DatasetsError

    try:
        rows = datasets.load_dataset(
            name, settings.source_name, split=settings.source_split, revision=commit, streaming=True
        )
        if rows.column_names:
            present = list(rows.column_names)
            if problem := reading.check_columns(present, f"hf:{name}"):
                yield Unreadable(f"hf:{name}", problem, "document_without_column")
                return
            # otherwise pictures and sounds would be decoded too
            rows = rows.select_columns([column for column in reading.columns if column in present])
        for number, row in enumerate(rows, start=1):
            yield reading.document(row, f"{name}:{number}", f"hf:{name}, row {number}")
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
