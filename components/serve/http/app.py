"""The service as an ASGI application."""

from fastapi import FastAPI

from components.serve.http.admin import admin_routes
from components.serve.http.boundary import Boundary
from components.serve.http.chat_completions import chat_routes
from components.serve.http.errors import install_error_handlers
from components.serve.http.models import model_routes
from components.serve.http.ocr import ocr_routes
from components.serve.http.probes import probe_routes
from components.serve.http.samples import sample_routes
from components.serve.http.service import Service


def application(service: Service) -> Boundary:
    """Return the application; it has no pages of its own, because a browser would load their code from elsewhere."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    install_error_handlers(app)
    for routes in (chat_routes, ocr_routes, model_routes, probe_routes, admin_routes, sample_routes):
        app.include_router(routes(service))
    return Boundary(app, service)
