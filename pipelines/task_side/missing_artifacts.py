"""Input files that are gone: KFP's cache names outputs of earlier runs, and does not look whether they still exist.

Buckets' life-cycle rules and clean-ups delete them. KFP's launcher downloads what is left, perhaps nothing, and starts
the step all the same.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from components.shared.errors import UserError
from components.shared.programs.machine_failures import causes_of

_DOWNLOADED = ("/minio/", "/s3/", "/gcs/")
"""Where KFP's launcher puts a downloaded artifact: below its store's scheme."""
_MEND = "run again without the cache (deepsynth submit --no-cache), or put the files back"


@contextmanager
def named_missing_files(folders: Mapping[str, str]) -> Iterator[None]:
    """Say of a downloaded input whose files are gone that KFP's cache may have named it, and what to do.

    Args:
        folders: an input's name -> its folder. Folders that KFP's launcher did not download are not looked at.

    Raises:
        UserError: an input has no file, or the block missed one of its files.
    """
    downloaded = {name: Path(folder) for name, folder in folders.items() if str(folder).startswith(_DOWNLOADED)}
    for name, folder in downloaded.items():
        if not folder.is_dir() or not any(folder.iterdir()):
            raise UserError(
                f"the input {name} has no files in KFP's object store any more", where=str(folder), mend=_MEND
            )
    try:
        yield
    except Exception as error:
        for name, folder in downloaded.items():
            if missing := _missing_file(error, folder):
                raise UserError(
                    f"a file of the input {name} is gone from KFP's object store", where=missing, mend=_MEND
                ) from error
        raise


def _missing_file(error: BaseException, folder: Path) -> str | None:
    """Return the file below ``folder`` that was looked for in vain; None if that is not what caused ``error``."""
    for cause in causes_of(error):
        if isinstance(cause, FileNotFoundError):
            # PyArrow and safetensors name the file in the text only.
            said = str(cause.filename or cause)
            if str(folder) in said:
                return said if cause.filename else str(folder)
    return None
