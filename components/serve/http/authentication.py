"""Who sends a request: bearer tokens, compared in constant time."""

import hashlib
import hmac
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from fastapi import Request

from components.serve.config import ServeConfig
from components.serve.http.connections import CERTIFICATE
from components.serve.http.errors import ApiError
from components.shared.errors import UserError

TOKEN_VARIABLE = "DEEPSYNTH_SERVE_TOKEN"
ADMIN_TOKEN_VARIABLE = "DEEPSYNTH_SERVE_ADMIN_TOKEN"
METRICS_TOKEN_VARIABLE = "DEEPSYNTH_SERVE_METRICS_TOKEN"
_SHORTEST_TOKEN = 16
_LOOPBACK_NAMES = {"localhost", "127.0.0.1", "::1"}


class Tokens:
    """Tokens by name; only their digests are kept, and each comparison looks at all of them."""

    def __init__(self, tokens: dict[str, str]) -> None:
        self._digests = {name: _digest(token) for name, token in tokens.items()}

    def __bool__(self) -> bool:
        return bool(self._digests)

    def name_of(self, token: str) -> str | None:
        """Return the name of ``token``; None if it is none of them."""
        digest, found = _digest(token), None
        for name, known in self._digests.items():
            if hmac.compare_digest(digest, known):
                found = name
        return found


@dataclass(frozen=True)
class Access:
    """The tokens of clients, of administrators and for the metrics, and whether clients show certificates (mTLS)."""

    clients: Tokens
    administrators: Tokens
    metrics: Tokens
    certificates: bool = False

    def client_of(self, request: Request) -> str:
        """Return the name under which a request is queued: its token's; where no token is needed, its certificate's
        subject, or its address.

        Raises:
            ApiError: 401 without a valid token; 403 if a web page sends it to a service without tokens.
        """
        if self.clients:
            return _bearer(request, self.clients)
        _refuse_web_pages(request, self.certificates)
        return _without_token(request)

    def holder_of(self, request: Request) -> str:
        """Return whose request it is, before anything is asked of it; named as by ``client_of``."""
        for tokens in (self.clients, self.administrators):
            if tokens:
                with suppress(ApiError):
                    return _bearer(request, tokens)
        return _without_token(request)

    def administrator_of(self, request: Request) -> str:
        """Return the administrator's name.

        Raises:
            ApiError: 401 without a valid token; 403 if the service has no tokens of administrators.
        """
        if not self.administrators:
            raise ApiError(403, "this service was started without an administrator's token", code="no_admin_token")
        return _bearer(request, self.administrators)

    def check_metrics(self, request: Request) -> None:
        """Let pass who may read the metrics: with a token for them, or where there is none, any client.

        Raises:
            ApiError: 401 without a valid token; 403 if a web page sends it to a service without tokens.
        """
        if self.metrics:
            _bearer(request, self.metrics)
        else:
            self.client_of(request)


def access_of(config: ServeConfig) -> Access:
    """Read the tokens of ``config`` and of the environment.

    Raises:
        UserError: a token file cannot be read or has a token that is too short, or a service that other machines can
            reach would have neither tokens nor client certificates.
    """
    clients = _tokens(config.token_file, TOKEN_VARIABLE)
    administrators = _tokens(config.admin_token_file, ADMIN_TOKEN_VARIABLE)
    if not clients and config.tls_client_ca is None and not config.only_this_machine:
        raise UserError(
            "anybody who reaches this address could read pages with the model",
            where=f"host {config.host!r}",
            mend=f"give token_file, {TOKEN_VARIABLE} or tls_client_ca, or listen on 127.0.0.1",
        )
    metrics = _tokens(config.metrics_token_file, METRICS_TOKEN_VARIABLE)
    return Access(Tokens(clients), Tokens(administrators), Tokens(metrics), config.tls_client_ca is not None)


def _tokens(path: Path | None, variable: str) -> dict[str, str]:
    found: dict[str, str] = {}
    if given := os.environ.get(variable, "").strip():
        found["environment"] = given
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path else []
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the tokens cannot be read ({type(error).__name__})", where=str(path)) from error
    for number, line in enumerate(filter(None, map(str.strip, lines)), start=1):
        name, colon, token = line.rpartition(":")
        found[name if colon else f"token-{number}"] = token
    if path and not any(lines):
        raise UserError("there is no token in it", where=str(path), mend="write one token per line")
    for name, token in found.items():
        if len(token) < _SHORTEST_TOKEN:
            raise UserError(
                f"the token {name!r} has fewer than {_SHORTEST_TOKEN} characters",
                where=str(path) if path else variable,
                mend="make a token with: openssl rand -hex 32",
            )
    return found


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _without_token(request: Request) -> str:
    """Return the subject of the client's certificate, in words or by its number, or else the client's address."""
    if shown := request.scope["state"].get(CERTIFICATE):
        names = [f"{name}={value}" for part in shown.get("subject", ()) for name, value in part]
        return ",".join(names) or f"certificate {shown['serialNumber']}"
    return request.client.host if request.client else "unknown"


def _bearer(request: Request, tokens: Tokens) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    name = tokens.name_of(token.strip()) if scheme.lower() == "bearer" else None
    if name is None:
        needed = {"WWW-Authenticate": "Bearer"}
        raise ApiError(401, "give a valid token: Authorization: Bearer TOKEN", code="invalid_api_key", headers=needed)
    return name


def _refuse_web_pages(request: Request, certificates: bool) -> None:
    """A page in a browser on this machine can reach loopback addresses, under names that its maker chose.

    With ``certificates`` the browser has compared the name with the service's certificate, so only the page's origin is
    looked at: browsers show the client's certificate to any page's requests.
    """
    host = urlsplit(f"//{request.headers.get('host', '')}").hostname
    origin = request.headers.get("origin")
    server = (request.scope.get("server") or ("",))[0]
    own = {host} if certificates else {*_LOOPBACK_NAMES, server}
    if host not in own or (origin is not None and urlsplit(origin).hostname not in own):
        raise ApiError(403, "a web page may not use a service without tokens", code="foreign_origin")
