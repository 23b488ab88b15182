"""The probes of Kubernetes, and the metrics: ``/health/startup``, ``/health/ready``, ``/health/live``, ``/metrics``."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from components.serve.http.service import Service


def probe_routes(service: Service) -> APIRouter:
    """Return the routes; probes need no token, the metrics one of theirs, or a client's."""
    router = APIRouter()

    @router.get("/health/startup")
    async def startup() -> JSONResponse:
        return _answer(_is_loaded(service), "the model is being loaded")

    @router.get("/health/ready")
    async def ready() -> JSONResponse:
        able = _is_loaded(service) and service.engine.failure() is None and not service.draining
        outage = service.engine.outage()
        reason = "stopping" if service.draining else outage or "the model cannot read now"
        return _answer(able and outage is None, reason)

    @router.get("/health/live")
    async def live() -> JSONResponse:
        if service.engine.failure() is not None:
            return _answer(False, "the engine has failed")
        return _answer(service.engine.step_seconds() < service.config.max_step_seconds, "a step does not end")

    @router.get("/metrics")
    async def metrics(request: Request) -> Response:
        service.access.check_metrics(request)
        return Response(service.meter.text(), media_type=CONTENT_TYPE_LATEST)

    return router


def _is_loaded(service: Service) -> bool:
    return service.versions.ready.done() and service.versions.ready.exception() is None


def _answer(good: bool, otherwise: str) -> JSONResponse:
    return JSONResponse({"status": "ok"}) if good else JSONResponse({"status": otherwise}, 503)
