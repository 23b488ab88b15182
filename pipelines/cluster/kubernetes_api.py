"""Kubernetes' API, with the credentials of a kubeconfig (``KUBECONFIG``) or of a pod's service account.

Answers stay plain JSON: the client's generated models reject values of newer Kubernetes versions.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import urllib3
from kubernetes import client, config

from components.shared.errors import UserError

_SECONDS_TO_ANSWER = (5, 20)  # connecting, reading


class KubernetesUnreachableError(UserError):
    """There are no credentials, or the API server does not answer."""


class KubernetesRefusedError(UserError):
    """The API server refused a request.

    Attributes:
        status: the HTTP status, e.g. 403 or 404.
    """

    def __init__(self, problem: str, *, where: str, status: int) -> None:
        super().__init__(problem, where=where)
        self.status = status


@dataclass(frozen=True)
class KubernetesApi:
    """An API server and the namespace of the runs."""

    client: Any
    namespace: str

    def get(self, path: str, **query: str) -> dict[str, Any]:
        """Return the object or list at ``path``.

        Raises:
            KubernetesUnreachableError, KubernetesRefusedError: no answer, or a refusal.
        """
        return self._json(self._call("GET", path, query, None))

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Create ``body`` at ``path`` and return the answer; errors as in ``get``."""
        return self._json(self._call("POST", path, {}, body))

    def delete(self, path: str, **query: str) -> None:
        """Delete the object at ``path``; errors as in ``get``."""
        self._call("DELETE", path, query, None)

    def text(self, path: str, **query: str) -> str:
        """Return the text at ``path``, such as a container's log; errors as in ``get``."""
        return self._call("GET", path, query, None).decode("utf-8", errors="replace")

    def lines(self, path: str, **query: str) -> Iterator[str]:
        """Yield the lines of a stream as they come; errors as in ``get``, also in the middle."""
        rest = b""
        with self._named_errors(path):
            answer = self._request("GET", path, query, None, (_SECONDS_TO_ANSWER[0], None))
            for chunk in answer.stream():
                *whole, rest = (rest + chunk).split(b"\n")
                yield from (line.decode("utf-8", errors="replace") for line in whole)
        if rest:
            yield rest.decode("utf-8", errors="replace")

    def in_namespace(self, kind: str) -> str:
        """Return the path of a core kind, such as ``pods``, in the runs' namespace."""
        return f"/api/v1/namespaces/{self.namespace}/{kind}"

    def _call(self, method: str, path: str, query: dict[str, str], body: dict[str, Any] | None) -> bytes:
        with self._named_errors(path):
            return bytes(self._request(method, path, query, body, _SECONDS_TO_ANSWER).data)

    def _request(self, method: str, path: str, query: dict[str, str], body: dict[str, Any] | None, timeout: Any) -> Any:
        return self.client.call_api(
            path,
            method,
            query_params=list(query.items()),
            header_params={"Accept": "application/json, */*", "Content-Type": "application/json"},
            body=body,
            auth_settings=["BearerToken"],
            _preload_content=False,
            _return_http_data_only=True,
            _request_timeout=timeout,
        )

    @contextmanager
    def _named_errors(self, path: str) -> Iterator[None]:
        try:
            yield
        except client.ApiException as error:
            raise KubernetesRefusedError(_message(error), where=f"Kubernetes {path}", status=error.status) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            reason = " ".join(str(getattr(error, "reason", None) or error).split())[:200]
            host = self.client.configuration.host
            raise KubernetesUnreachableError(f"does not answer ({reason})", where=f"Kubernetes {host}") from error

    def _json(self, data: bytes) -> dict[str, Any]:
        try:
            value = json.loads(data)
        except ValueError as error:
            host = self.client.configuration.host
            raise KubernetesUnreachableError("answers, but not with JSON", where=f"Kubernetes {host}") from error
        if not isinstance(value, dict):
            raise KubernetesUnreachableError("answers, but not with an object", where="Kubernetes")
        return value


def connect_kubernetes(namespace: str) -> KubernetesApi:
    """Return the API of the kubeconfig's current context, or of the cluster that this process runs in.

    Raises:
        KubernetesUnreachableError: neither is there, or the kubeconfig cannot be read.
    """
    settings = client.Configuration()
    try:
        config.load_kube_config(config_file=os.environ.get("KUBECONFIG") or None, client_configuration=settings)
    except config.ConfigException as no_file:
        try:
            config.load_incluster_config(client_configuration=settings)
        except config.ConfigException:
            reason = " ".join(str(no_file).split())[:200]
            raise KubernetesUnreachableError(f"no credentials ({reason})", where="Kubernetes") from no_file
    except Exception as error:  # exec plugins and damaged files raise whatever they like
        reason = " ".join(str(error).split())[:200]
        raise KubernetesUnreachableError(f"the kubeconfig cannot be used ({reason})", where="Kubernetes") from error
    settings.retries = False
    return KubernetesApi(client.ApiClient(settings), namespace)


def _message(error: client.ApiException) -> str:
    """Return the message of Kubernetes' ``Status`` object."""
    body = error.body.decode(errors="replace") if isinstance(error.body, bytes) else str(error.body or "")
    try:
        said = str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        said = body or str(error.reason)
    return f"{error.status}: {' '.join(said.split())[:300]}"
