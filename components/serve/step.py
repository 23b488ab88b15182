"""Read pages over HTTP:

python -m components.serve --model tiny-base --port 8000
"""

from __future__ import annotations

import logging

from components.serve.config import ServeConfig

logger = logging.getLogger(__name__)


def run(config: ServeConfig) -> None:
    """Serve until SIGTERM or SIGINT; then finish what is in flight.

    Raises:
        UserError: an address that others can reach without a token, an address in use, certificates that do not fit, or
            a model that cannot be loaded.
    """
    from components.serve.adapters.sources import fetched, with_base
    from components.serve.engines.quick_start import leave_out_unused
    from components.serve.http.authentication import access_of
    from components.serve.http.listening import address_of, check_certificates, listening_socket
    from components.shared.artifacts.output_folder import scratch_folder

    access = access_of(config)
    check_certificates(config)
    with listening_socket(config) as listening, scratch_folder("deepsynth-serve") as scratch:
        logger.info("listening on %s", address_of(config, listening))
        files = fetched(config.model, scratch)
        config = with_base(config, files)
        leave_out_unused(config)
        from components.serve.assembly import assembled, start, stop
        from components.serve.http.server import serve

        service = assembled(config, access, scratch, files)
        start(service, files)
        try:
            serve(service, listening)
        finally:
            stop(service)
