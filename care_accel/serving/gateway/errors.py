"""Error responses in OpenAI's format."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import JSONResponse, Response

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """Error response of a rejected or failed request.

    Parameters
    ----------
    status : int
        HTTP status.
    code : str
        Machine-readable and stable.
    message : str
        What is wrong and how to fix it; never contains a client's text.
    param : str, optional
        The invalid field.
    headers : mapping of str to str, optional
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.param = status, code, message, param
        self.headers = dict(headers or {})

    def response(self) -> Response:
        """Return it as ``{"error": {"message", "type", "param", "code"}}``."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        body = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return JSONResponse({"error": body}, self.status, self.headers)


def invalid(message: str, param: str | None = None, code: str = "invalid_value") -> ApiError:
    """Return the error of a request with an invalid field."""
    return ApiError(400, code, message, param=param)


INTERNAL = ApiError(500, "internal_error", "internal error of the gateway; see its log under this request id")
