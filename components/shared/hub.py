"""The Hugging Face hub: whether it can be reached, asked once and quickly."""

import os
import socket
from functools import cache
from urllib.parse import urlparse

from huggingface_hub import constants

_SECONDS_TO_CONNECT = 5.0


@cache
def hub_is_reachable() -> bool:
    """Return whether the hub's endpoint accepts a connection.

    huggingface_hub itself retries each file for half a minute; a machine without a network gets its answer here
    at once. Behind an HTTP proxy the question is left to the proxy.
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
