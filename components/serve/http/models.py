"""``GET /v1/models``: the base, every adapter, and the aliases."""

from typing import Any

from fastapi import APIRouter, Request

from components.serve.http.service import Service


def model_routes(service: Service) -> APIRouter:
    """Return the route."""
    router = APIRouter()

    @router.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        service.access.client_of(request)
        listed = [
            {"id": one.name, "object": "model", "created": one.loaded, "owned_by": "deepsynth", "version": one.version}
            for one in service.catalog.listed()
        ]
        return {"object": "list", "data": listed}

    return router
