"""Errors in the shape that OpenAI's clients read."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
    504: "timeout_error",
}


class ApiError(Exception):
    """A request that is refused or fails.

    Args:
        status: the HTTP status.
        message: what is wrong and what to do, for the client alone: it is never logged.
        code: one word for programs.
        param: the field of the request that is wrong.
        headers: of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param, self.headers = status, message, code, param, headers

    @property
    def kind(self) -> str:
        """OpenAI's type of the error."""
        return _TYPES.get(self.status, "server_error")

    @property
    def reason(self) -> str:
        """One of a few words for metrics, logs and spans."""
        return self.code or self.kind

    def body(self) -> dict[str, Any]:
        """Return the error as JSON."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


def install_error_handlers(app: FastAPI) -> None:
    """Answer every error in OpenAI's shape."""

    async def of_api(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ApiError)
        request.state.failure = error.reason
        return JSONResponse(error.body(), error.status, headers=error.headers)

    async def of_router(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        answer = ApiError(error.status_code, str(error.detail))
        request.state.failure = answer.reason
        return JSONResponse(answer.body(), error.status_code)

    app.add_exception_handler(ApiError, of_api)
    app.add_exception_handler(HTTPException, of_router)
