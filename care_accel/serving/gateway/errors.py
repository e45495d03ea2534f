"""What a caller is told when a request fails: OpenAI's shape, so that its clients understand it."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import JSONResponse, Response

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """A request that is refused or failed.

    Parameters
    ----------
    status : int
        Of HTTP.
    code : str
        For programs: stays when the words change.
    message : str
        One sentence that says what and how to mend it; never holds a caller's text.
    param : str, optional
        The field that is meant.
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
    """Return the error for a request whose fields are wrong."""
    return ApiError(400, code, message, param=param)


INTERNAL = ApiError(500, "internal_error", "the gateway failed; the log has more under this request's id")
