"""The Hugging Face hub: one quick check whether it is reachable, and errors for refused requests."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from urllib.parse import urlparse

import httpx
from huggingface_hub import constants, get_token
from huggingface_hub.errors import HfHubHTTPError

from components.shared.errors import UserError

_SECONDS_TO_CONNECT = 5.0


@cache
def hub_is_reachable() -> bool:
    """Return whether the hub's endpoint accepts a connection.

    huggingface_hub retries each file for half a minute; this check fails at once on a machine without a network.
    Behind an HTTP proxy it does not check and returns True.
    """
    if constants.HF_HUB_OFFLINE:
        return False
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    endpoint = urlparse(constants.ENDPOINT)
    port = endpoint.port or (443 if endpoint.scheme == "https" else 80)
    try:
        socket.create_connection((endpoint.hostname or "", port), timeout=_SECONDS_TO_CONNECT).close()
    except OSError:
        return False
    return True


@contextmanager
def named_refusals(where: str) -> Iterator[None]:
    """Turn a refused hub request within the block into an error that says whether the token is the cause.

    Raises:
        UserError: the hub answered with an error status or did not answer; ``where`` names what was requested.
    """
    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code
        said = " ".join((error.server_message or str(error)).split())[:300]
        if status not in (401, 403):
            raise UserError(f"the hub answers {status} ({said})", where=where) from error
        if get_token():
            problem = f"the hub refuses the token of HF_TOKEN ({status}: {said})"
            mend = "make a new one in the hub's settings, with read access to this, and check the name"
        else:
            problem = f"the hub shows this to nobody without a token ({status}: {said})"
            mend = "set HF_TOKEN to one with read access, and check the name"
        raise UserError(problem, where=where, mend=mend) from error
    except (httpx.HTTPError, OSError) as error:
        raise UserError(
            f"the hub at {constants.ENDPOINT} cannot be used ({' '.join(str(error).split())[:300]})",
            where=where,
            mend="check the network and the variables HF_ENDPOINT and HF_HUB_OFFLINE",
        ) from error
