"""``DELETE /admin/samples/REQUEST_ID``: deletes what was kept of a request."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request

from components.serve.http.errors import ApiError
from components.serve.http.service import Service


def sample_routes(service: Service) -> APIRouter:
    """Return the route; it needs an administrator's token."""
    router = APIRouter()

    @router.delete("/admin/samples/{request_id}")
    async def delete(request: Request, request_id: str) -> dict[str, Any]:
        who = service.access.administrator_of(request)
        if service.samples is None:
            raise ApiError(404, "this service keeps no samples", code="no_sample_store")
        try:
            removed = await asyncio.to_thread(service.samples.delete, request_id, who)
        except OSError as error:
            message = f"the sample store fails ({type(error).__name__}): try again"
            raise ApiError(503, message, code="sample_store_failed") from error
        return {"request_id": request_id, "deleted": removed}

    return router
