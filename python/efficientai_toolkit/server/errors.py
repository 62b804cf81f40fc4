"""Errors as OpenAI's clients read them, and as Anthropic's do under ``/v1/messages``.

https://platform.openai.com/docs/guides/error-codes/api-errors, https://docs.anthropic.com/en/api/errors
"""

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from efficientai_toolkit.exceptions import ToolkitError
from efficientai_toolkit.jobs.job import JobNotFoundError, JobStateError, QueueFullError

ANTHROPIC = "/v1/messages"
"""Path below which errors have Anthropic's form."""

INVALID = "invalid_request_error"

_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
}
"""Anthropic's types by status; others are ``invalid_request_error``, as are OpenAI's."""

_OPENAI_KINDS = {429: "rate_limit_error", 500: "server_error", 501: "server_error", 503: "server_error"}

_STATUSES = {JobNotFoundError: 404, JobStateError: 409, QueueFullError: 429}
"""Statuses of our own exceptions; others are 400."""

_MAX_MESSAGE = 1000

log = logging.getLogger(__package__)


class ApiError(Exception):
    """What is wrong with a request.

    Parameters
    ----------
    message
        One line for whoever sent it.
    status
        HTTP status.
    param
        Field at fault.
    code
        OpenAI's code, such as ``model_not_found``.
    retry_after
        Seconds after which another try may succeed.
    headers
        Further headers of the response.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message[:_MAX_MESSAGE]
        self.status = status
        self.param = param
        self.code = code
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["Retry-After"] = str(retry_after)

    def describe(self, path: str = "") -> dict[str, Any]:
        """Return the body of the response to a request of ``path``."""
        if path.startswith(ANTHROPIC):
            return {
                "type": "error",
                "error": {"type": _KINDS.get(self.status, INVALID), "message": self.message},
            }
        kind = _OPENAI_KINDS.get(self.status, INVALID)
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def respond(self, path: str = "") -> Response:
        """Return the response to a request of ``path``."""
        return JsonResponse(self.describe(path), status_code=self.status, headers=self.headers)


class JsonResponse(Response):
    """JSON in ASCII: whatever a client or a model wrote, half a surrogate pair included, can be sent."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Encode ``content``."""
        return dump_json(content).encode()


def dump_json(content: object) -> str:
    """Return compact JSON in ASCII."""
    return json.dumps(content, separators=(",", ":"), allow_nan=False)


def add_handlers(app: FastAPI) -> None:
    """Let ``app`` answer every exception with an error object."""

    def handle(request: Request, error: Exception) -> Response:
        return as_api_error(error).respond(request.url.path)

    for kind in (ApiError, RequestValidationError, HTTPException, ToolkitError, Exception):
        app.add_exception_handler(kind, handle)


def as_api_error(error: Exception) -> ApiError:
    """Return what a client is told about an exception."""
    match error:
        case ApiError():
            return error
        case RequestValidationError():
            return _from_validation(error.errors())
        case HTTPException():
            return ApiError(str(error.detail), status=error.status_code, headers=error.headers)
        case ToolkitError():
            status = next((status for kind, status in _STATUSES.items() if isinstance(error, kind)), 400)
            return ApiError(" ".join(str(error).split()), status=status)
        case _:
            log.error("a request failed", exc_info=error)
            return ApiError("the server failed; its log tells why", status=500)


def _from_validation(errors: Sequence[Mapping[str, Any]]) -> ApiError:
    """Describe the first fault; unions report one for each of their arms."""
    first = errors[0]
    place, *inner = first["loc"] or ("body",)
    param = ".".join(str(part) for part in inner)[:200] or None
    where = f"`{param}` in the {place}" if param and first["type"] != "json_invalid" else f"the {place}"
    reason = first["msg"]
    if first["type"] == "json_invalid":
        reason = f"{reason}: {first.get('ctx', {}).get('error', '')}"
    return ApiError(f"{where}: {reason}", param=param)
