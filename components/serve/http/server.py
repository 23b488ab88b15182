"""uvicorn, with an end in order: readiness goes first, then new requests, then what is in flight."""

import asyncio
import logging
import socket
import ssl
import threading
from concurrent.futures import Future
from types import FrameType

import uvicorn

from components.serve.http.app import application
from components.serve.http.connections import Connection
from components.serve.http.service import Service

logger = logging.getLogger(__name__)


class _DrainingServer(uvicorn.Server):
    """Finishes what is in flight after the first signal, and ends at once after the second."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain: readiness fails at once, the socket closes after the notice."""
        if self._service.draining:
            self.should_exit = self.force_exit = True
            return
        self._service.draining = True
        logger.info("stopping: requests in flight have %g s", self._service.config.drain_seconds)
        threading.Timer(self._service.config.drain_notice_seconds, self.end).start()

    def end(self) -> None:
        """Take no more connections, and end when those there are have their answers."""
        self.should_exit = True


def serve(service: Service, listening: socket.socket) -> None:
    """Serve requests on ``listening`` until SIGTERM or SIGINT, then drain.

    Raises:
        Exception: the model cannot be loaded; nothing is served then.
    """
    server = _DrainingServer(_uvicorn_config(service), service)

    def loaded(ready: "Future[None]") -> None:
        if ready.exception() is not None:
            server.end()
        else:
            logger.info("ready: %s reads pages", service.config.model)

    service.versions.ready.add_done_callback(loaded)
    asyncio.run(server.serve([listening]))
    if service.versions.ready.done():
        service.versions.ready.result()


def _uvicorn_config(service: Service) -> uvicorn.Config:
    config = service.config
    return uvicorn.Config(
        application(service),
        http=Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=max(1, round(config.drain_seconds)),
        ssl_certfile=config.tls_certificate,
        ssl_keyfile=config.tls_key,
        ssl_ca_certs=str(config.tls_client_ca) if config.tls_client_ca else None,
        ssl_cert_reqs=ssl.CERT_REQUIRED if config.tls_client_ca else ssl.CERT_NONE,
    )
