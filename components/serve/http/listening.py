"""The address that the service listens on, taken before anything is loaded: a wrong one is told at once."""

import socket

from components.serve.config import ServeConfig
from components.shared.errors import UserError

_BACKLOG = 2048  # uvicorn's own


def listening_socket(config: ServeConfig) -> socket.socket:
    """Bind the address and listen there.

    Raises:
        UserError: it is in use, or not an address of this machine.
    """
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((config.host, config.port))
        bound.listen(_BACKLOG)  # connections wait here while the service starts
    except OSError as error:
        bound.close()
        mend = "give another port, or 0 for a free one"
        raise UserError(
            f"cannot listen there ({error.strerror or error})", where=f"{config.host}:{config.port}", mend=mend
        ) from error
    return bound


def address_of(config: ServeConfig, listening: socket.socket) -> str:
    """Return the address for clients."""
    host, port = listening.getsockname()[:2]
    scheme = "https" if config.tls_certificate else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
