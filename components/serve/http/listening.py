"""The service's address and certificates, taken before anything is loaded: what is wrong is told at once."""

import socket
import ssl

from components.serve.config import ServeConfig
from components.shared.errors import UserError

_BACKLOG = 2048  # uvicorn's own


def check_certificates(config: ServeConfig) -> None:
    """Read the certificates that ``config`` names.

    Raises:
        UserError: a file cannot be read, is no certificate or key, or the two do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority = config.tls_client_ca
    try:
        if config.tls_certificate is not None:
            where = f"tls_certificate {config.tls_certificate}, tls_key {config.tls_key}"
            context.load_cert_chain(config.tls_certificate, config.tls_key, password=_no_password)
        if authority is not None:
            where = f"tls_client_ca {authority}"
            context.load_verify_locations(authority)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        mend = "give PEM files: the certificate, and its key without a password"
        raise UserError(f"the certificate cannot be used ({reason})", where=where, mend=mend) from error


def _no_password() -> str:
    raise ValueError("the key has a password")


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
