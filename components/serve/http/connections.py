"""A connection to a client: what a request learns of it besides ASGI's fields."""

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

ABORT = "abort_connection"
CERTIFICATE = "client_certificate"


class Connection(H11Protocol):
    """uvicorn's, which gives each request's state the client's certificate, and a way to end the connection at once.

    ASGI has neither: uvicorn leaves out ASGI's TLS extension, and it closes a connection only when the client has read
    what was written to it.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Keep what requests shall know."""
        super().connection_made(transport)
        shown: dict[str, Any] | None = transport.get_extra_info("peercert")
        abort: Callable[[], None] = transport.abort
        self.app_state = {**self.app_state, ABORT: abort, CERTIFICATE: shown}
