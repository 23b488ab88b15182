"""Upload a finished package to the Hugging Face hub: by the export step, or later by ``deepsynth push``."""

import logging
import os
from pathlib import Path

from components.export.package.package_layout import LINEAGE_FILE
from components.export.publication.finished_package import finished_package
from components.shared.errors import UserError

logger = logging.getLogger(__name__)

TOKEN_VARIABLE = "HF_TOKEN"
_OF_A_NEW_REPOSITORY = {".gitattributes", "README.md"}


class HubUnavailableError(UserError):
    """The hub cannot be reached, or refuses the upload."""


class RepositoryTakenError(UserError):
    """The repository contains something other than a package."""


def required_token() -> str:
    """Return the token of ``HF_TOKEN``.

    Raises:
        UserError: the variable is not set.
    """
    if token := os.environ.get(TOKEN_VARIABLE, "").strip():
        return token
    raise UserError(
        "no token: uploading to the hub needs one",
        where=f"environment variable {TOKEN_VARIABLE}",
        mend="create a token with write access in the hub's settings and set this variable",
    )


def push_package(path: Path, repository: str, *, public: bool = False) -> str:
    """Replace the files of ``repository`` (OWNER/NAME) by the package's in one commit; return the commit's URL.

    An earlier package's files remain only in the repository's history. A missing repository is created, private unless
    ``public``; an existing one keeps its visibility.

    Raises:
        HubUnavailableError: the hub cannot be reached, or refuses the upload.
        RepositoryTakenError: the repository contains something other than a package.
        UserError: no token, not a package, or a package that does not match its lineage.
    """
    token = required_token()
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    with finished_package(path) as package:
        api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token)
        try:
            api.create_repo(repository, private=not public, exist_ok=True)
            _check_replaceable(repository, api.list_repo_files(repository))
            commit = api.upload_folder(
                repo_id=repository,
                folder_path=package.folder,
                commit_message=f"Package {package.lineage.name}",
                delete_patterns="*",  # keeps uploaded files and .gitattributes
            )
        except HfHubHTTPError as error:
            status = error.response.status_code
            mend = "use a token that may write there" if status in (401, 403) else "try again later: deepsynth push"
            raise HubUnavailableError(
                f"the hub refused ({status}: {_one_line(error)})", where=repository, mend=mend
            ) from error
        except (httpx.HTTPError, OSError, ValueError) as error:
            raise HubUnavailableError(
                f"the hub at {api.endpoint} cannot be used ({_one_line(error)})",
                where=repository,
                mend="check the network and the variables HF_ENDPOINT and HF_HUB_OFFLINE",
            ) from error
    logger.info("%s is at %s", repository, commit.commit_url)
    return str(commit.commit_url)


def _check_replaceable(repository: str, files: list[str]) -> None:
    others = sorted(set(files) - _OF_A_NEW_REPOSITORY)
    if others and LINEAGE_FILE not in files:
        raise RepositoryTakenError(
            f"the repository contains something other than a package ({', '.join(others[:3])})",
            where=repository,
            mend="name another repository, or delete these files first: a package replaces all files",
        )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
