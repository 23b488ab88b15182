"""The API of Kubeflow Pipelines: a tested connection, and errors that say how to fix them.

Credentials come from the environment, never from a flag: ``KFP_TOKEN`` (a bearer token), ``KFP_COOKIES`` (e.g.
``authservice_session=...`` of Kubeflow's login page), ``KF_PIPELINES_SA_TOKEN_PATH`` (a mounted service account token),
``KFP_CA_CERT`` (a certificate authority's file), or what KFP's own client reads: Google's IAP variables and
``~/.config/kfp/context.json``.
"""

import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import kfp
import kfp_server_api
import urllib3
from kfp.client.set_volume_credentials import ServiceAccountTokenVolumeCredentials

from components.shared.errors import UserError

HOST_VARIABLE = "KFP_HOST"
_SECONDS_TO_ANSWER = 30
_PAGE = 100
# Not KFP's default: with that, its client checks the server's health itself, with five attempts.
_NAMESPACE_OF_THE_CLIENT = "unused"


class LostContactError(UserError):
    """The server did not answer, or answered with a server error: the next attempt may succeed."""


@dataclass(frozen=True)
class KfpApi:
    """A KFP server that answered.

    Attributes:
        client: KFP's client with its generated services, such as ``client.runs``.
        namespace: the namespace to send; None for a single-user installation, which refuses one.
        version: KFP's release; empty if the server does not tell.
    """

    client: Any
    host: str
    namespace: str | None
    version: str = ""

    def call(self, service: str, method: str, **arguments: Any) -> Any:
        """Call ``client.<service>.<method>`` with a time limit.

        Raises:
            LostContactError, UserError: the server cannot be reached, or rejects the request.
        """
        with _named_errors(self.host):
            function = getattr(getattr(self.client, service), method)
            return function(**arguments, _request_timeout=_SECONDS_TO_ANSWER)

    def all_pages(self, service: str, method: str, items: str, **arguments: Any) -> list[Any]:
        """Return the ``items`` of all pages of a list."""
        found: list[Any] = []
        token = ""
        while True:
            page = self.call(service, method, page_token=token, page_size=_PAGE, **arguments)
            found += getattr(page, items) or []
            token = page.next_page_token
            if not token:
                return found

    def named(self, service: str, method: str, items: str, name: str, **arguments: Any) -> list[Any]:
        """Return the ``items`` whose display name is ``name``."""
        predicate = {"operation": "EQUALS", "key": "display_name", "stringValue": name}
        given = json.dumps({"predicates": [predicate]})
        found = self.all_pages(service, method, items, filter=given, **arguments)
        return [one for one in found if one.display_name == name]

    def log(self, run_id: str, pod: str) -> str:
        """Return the log of a pod's container ``main`` through KFP, which reads the pod or its archive.

        Raises:
            LostContactError, UserError: as in ``call``; KFP answers 404 or 500 where it has no log of this pod.
        """
        with _named_errors(self.host):
            answer = self.client.runs.api_client.call_api(
                "/apis/v1alpha1/runs/{run_id}/nodes/{pod}/log",
                "GET",
                path_params={"run_id": run_id, "pod": pod},
                auth_settings=["Bearer"],
                _preload_content=False,
                _return_http_data_only=True,
                _request_timeout=_SECONDS_TO_ANSWER,
            )
            return str(answer.data.decode("utf-8", errors="replace"))

    def run_page(self, run_id: str) -> str:
        """Return the address of a run's page."""
        return f"{os.environ.get('KF_PIPELINES_UI_ENDPOINT') or self.host}/#/runs/details/{run_id}"


def connect(host: str | None, namespace: str) -> KfpApi:
    """Return the API at ``host`` after a health check.

    Raises:
        UserError: no host given, no answer, not KFP, or the credentials are refused.
    """
    if not host:
        raise UserError(
            "which KFP server?",
            where="--host",
            mend=f"give its address, in the environment's file (host), or in the variable {HOST_VARIABLE}",
        )
    address = host.rstrip("/").removesuffix("/#").removesuffix("/apis/v2beta1")
    if not address.startswith(("http://", "https://")):
        raise UserError("must begin with http:// or https://", where=f"--host {host}")
    client = _client(address)
    with _named_errors(address):
        answer = client.healthzs.healthz_service_get_healthz(
            _preload_content=False, _request_timeout=_SECONDS_TO_ANSWER
        )
    try:
        health = json.loads(answer.data)
        multi_user = bool(health.get("multi_user", False))
    except (ValueError, AttributeError) as error:
        login = b"<html" in answer.data[:2000].lower()
        raise UserError(
            "answers, but not as Kubeflow Pipelines" + (" (a web page: a login page?)" if login else ""),
            where=f"--host {address}",
            mend="give KFP's address, e.g. that of kubectl port-forward -n kubeflow svc/ml-pipeline-ui 8080:80"
            + (", or log in with KFP_TOKEN or KFP_COOKIES" if login else ""),
        ) from error
    return KfpApi(client, address, namespace if multi_user else None, str(health.get("tag_name") or ""))


def _client(host: str) -> Any:
    token = os.environ.get("KFP_TOKEN")
    token_file = os.environ.get("KF_PIPELINES_SA_TOKEN_PATH")
    certificate = os.environ.get("KFP_CA_CERT")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the client warns that it works with KFP 2 only
        return kfp.Client(
            host=host,
            namespace=_NAMESPACE_OF_THE_CLIENT,
            existing_token=token,
            cookies=os.environ.get("KFP_COOKIES"),
            credentials=ServiceAccountTokenVolumeCredentials(token_file) if token_file and not token else None,
            ssl_ca_cert=certificate,
        )


@contextmanager
def _named_errors(host: str) -> Iterator[None]:
    where = f"--host {host}"
    try:
        yield
    except kfp_server_api.ApiException as error:
        raise _refusal(error, where) from error
    except urllib3.exceptions.HTTPError as error:
        reason = getattr(error, "reason", None) or error
        raise LostContactError(
            f"cannot be reached ({' '.join(str(reason).split())[:200]})",
            where=where,
            mend="check the address and the network, e.g. whether kubectl port-forward still runs",
        ) from error


def _refusal(error: kfp_server_api.ApiException, where: str) -> UserError:
    said = _message(error)
    if error.status == 401:
        mend = "log in: set KFP_TOKEN to a new token, or KFP_COOKIES"
        return UserError(f"wants a login, or the token has expired (401: {said})", where=where, mend=mend)
    if error.status == 403:
        mend = "ask the cluster's admin for the rights, or name another namespace in the environment"
        return UserError(f"refuses this account (403: {said})", where=where, mend=mend)
    if error.status == 404:
        return UserError(f"knows no such thing (404: {said})", where=where, mend="check the address and the name")
    if error.status and error.status < 500:
        return UserError(f"refuses the request ({error.status}: {said})", where=where)
    mend = "try again; if it stays, look at the logs of the Deployment ml-pipeline"
    return LostContactError(f"is in trouble ({error.status or 'no status'}: {said})", where=where, mend=mend)


def _message(error: kfp_server_api.ApiException) -> str:
    """Return the server's message: KFP answers with JSON, a gateway in front of it with an HTML page."""
    body = error.body.decode(errors="replace") if isinstance(error.body, bytes) else str(error.body or "")
    try:
        answer = json.loads(body)
        body = str(answer.get("error_message") or answer.get("message") or answer.get("error") or body)
    except (ValueError, AttributeError):
        body = error.reason or "" if "<html" in body.lower() else body
    return " ".join(body.split())[:300] or str(error.reason)
