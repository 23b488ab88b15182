"""The registry's champion as one more reader of the same pages."""

from dataclasses import dataclass
from pathlib import Path

from components.shared.errors import UserError
from components.shared.models.adapter_loading import check_base_of_adapter, check_fine_tuned_weights
from components.shared.tracking.model_registry import RegisteredAdapter, champion_of
from components.shared.tracking.registered_files import download

_MEND = "give the alias champion to a version that fits this base, or name another registered model"


@dataclass(frozen=True)
class Champion:
    """The version that has the alias ``champion``, and the folder of its downloaded files."""

    registered: RegisteredAdapter
    folder: Path


def fetch_champion(name: str, base_model: str, revision: str | None, folder: Path) -> Champion | None:
    """Download the champion of ``name`` into ``folder``; None where no version has the alias yet.

    Raises:
        UserError: the registry is down, or the version's files are gone, truncated, not finite, or made for another
            base. Without the champion's row, a worse adapter could replace it.
    """
    registered = champion_of(name)
    if registered is None:
        return None
    download(registered, folder)
    try:
        check_base_of_adapter(base_model, revision, folder)
        check_fine_tuned_weights(folder)
    except UserError as error:
        raise UserError(f"the champion cannot be read: {error.problem}", where=str(registered), mend=_MEND) from error
    return Champion(registered, folder)
