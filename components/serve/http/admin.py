"""What administrators may do while the service runs: load and unload versions, move aliases, roll back."""

import asyncio
import base64
import hashlib
import hmac
import os
import socket
import time
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ValidationError

from components.serve.adapters.catalog import UnknownModelError
from components.serve.adapters.versions import NameTakenError
from components.serve.engines.protocol import EngineDownError, EngineStoppedError
from components.serve.http.errors import ApiError
from components.serve.http.service import Service
from components.shared.errors import UserError

WEBHOOK_VARIABLE = "DEEPSYNTH_SERVE_WEBHOOK_SECRET"
_SECONDS_OF_A_SIGNATURE = 300  # a webhook that is older may be a replay
_DIGITS_OF_A_TIME = 12


class _Load(BaseModel):
    source: str


class _Point(BaseModel):
    version: str


def admin_routes(service: Service) -> APIRouter:
    """Return the routes; each needs an administrator's token, the webhook MLflow's signature.

    An answer says which host has obeyed: behind a balancer, the other replicas have not.
    """
    router = APIRouter()
    host = socket.gethostname()

    @router.post("/admin/models")
    async def load(request: Request) -> dict[str, Any]:
        service.access.administrator_of(request)
        wish = _parsed(_Load, await request.body())
        try:
            return {"version": await asyncio.to_thread(service.versions.load, wish.source), "host": host}
        except NameTakenError as error:
            raise ApiError(409, str(error), code="name_taken", param="source") from error
        except UserError as error:
            raise ApiError(400, str(error), code="not_loaded", param="source") from error
        except (EngineDownError, EngineStoppedError) as error:
            raise _not_now(error) from error

    @router.delete("/admin/models/{name:path}")
    async def unload(request: Request, name: str) -> dict[str, Any]:
        service.access.administrator_of(request)
        try:
            await asyncio.to_thread(service.versions.unload, name)
        except UserError as error:
            raise ApiError(409, str(error), code="not_unloaded") from error
        except (EngineDownError, EngineStoppedError) as error:
            raise _not_now(error) from error
        return {"unloaded": name, "host": host}

    @router.put("/admin/aliases/{alias}")
    async def point(request: Request, alias: str) -> dict[str, Any]:
        service.access.administrator_of(request)
        version = _parsed(_Point, await request.body()).version
        if not alias.startswith("@"):
            raise ApiError(400, "an alias begins with @", param="alias")
        try:
            service.catalog.point(alias, version)
        except UnknownModelError as error:
            raise ApiError(404, "no such version is loaded", code="model_not_found", param="version") from error
        return {"alias": alias, "version": version, "host": host}

    @router.post("/admin/aliases/{alias}/rollback")
    async def roll_back(request: Request, alias: str) -> dict[str, Any]:
        service.access.administrator_of(request)
        try:
            return {"alias": alias, "version": service.catalog.roll_back(alias), "host": host}
        except UnknownModelError as error:
            raise ApiError(409, "the alias had no earlier version that is loaded", code="nothing_earlier") from error

    @router.post("/admin/mlflow-webhook")
    async def mlflow_moved_an_alias(request: Request) -> dict[str, Any]:
        _check_signature(request, await request.body())
        if service.follower is not None:
            service.follower.wake()
        return {"status": "ok"}

    return router


def _not_now(error: EngineDownError | EngineStoppedError) -> ApiError:
    code = "engine_down" if isinstance(error, EngineDownError) else "stopping"
    return ApiError(503, str(error), code=code, headers={"Retry-After": "5"})


def _parsed(model: type[Any], body: bytes) -> Any:
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise ApiError(400, first["msg"], param=".".join(map(str, first["loc"])) or None) from error


def _check_signature(request: Request, body: bytes) -> None:
    """Compare with the HMAC-SHA256 over "id.timestamp.body" that MLflow sends (``mlflow/webhooks/delivery.py``)."""
    secret = os.environ.get(WEBHOOK_VARIABLE, "")
    if not secret:
        raise ApiError(403, f"{WEBHOOK_VARIABLE} is not set", code="no_webhook_secret")
    sent, stamp = request.headers.get("x-mlflow-signature", ""), request.headers.get("x-mlflow-timestamp", "")
    signed = f"{request.headers.get('x-mlflow-delivery-id', '')}.{stamp}.".encode() + body
    digest = base64.b64encode(hmac.new(secret.encode(), signed, hashlib.sha256).digest()).decode()
    recent = (
        stamp.isdecimal()
        and len(stamp) <= _DIGITS_OF_A_TIME
        and abs(time.time() - int(stamp)) < _SECONDS_OF_A_SIGNATURE
    )
    if not hmac.compare_digest(f"v1,{digest}".encode(), sent.encode()) or not recent:
        raise ApiError(401, "not signed with this service's webhook secret, or too old", code="invalid_signature")
