"""Error responses in OpenAI's format."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import JSONResponse, Response

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
TYPES = ("invalid_request_error", *_TYPES.values(), "server_error")

# Every code, with what it means; a test holds them against those that are raised.
CODES = {
    "invalid_json": "The body is not a JSON object in UTF-8.",
    "unknown_field": "A field has an unknown name.",
    "missing": "A field is missing.",
    "both": "Two fields exclude each other.",
    "invalid_value": "A field has another type, or a value that it cannot have.",
    "empty": "A query or a filter is empty, or there is no document.",
    "too_long": "A text or a filter is too long.",
    "too_many": "There are too many texts, documents or ids.",
    "too_large": "More hits are asked for than a response may have.",
    "token_ids": "The input has token ids instead of texts.",
    "role_conflict": "The model is one of a role, and the request is for the other one.",
    "unsupported_dimensions": "Vectors of this model cannot be shortened.",
    "invalid_document": "A document is wrong; none was written.",
    "invalid_filter": "A filter is wrong.",
    "refused_by_server": "The inference server refuses a text or a filter; the message is its own.",
    "unknown_host": "The Host header is not one of the gateway's names.",
    "invalid_token": "The token is missing or wrong.",
    "write_token_required": "This token may only read.",
    "unknown_url": "There is no such route.",
    "model_not_found": "No model of this name is served.",
    "not_served": "The inference server does not serve this role, or no search.",
    "document_not_found": "There is no document with this id.",
    "method_not_allowed": "The route has no such method.",
    "body_too_slow": "The body did not arrive in time.",
    "write_conflict": "Other writers kept changing the same documents; send the request again.",
    "body_too_long": "The body is too large; send fewer texts per request.",
    "unsupported_media_type": "The body has another media type.",
    "unsupported_encoding": "The body is compressed.",
    "rate_limit_exceeded": "The caller's rate limit is exceeded.",
    "internal_error": "The gateway failed; its log has the request id.",
    "server_failed": "The inference server failed.",
    "not_ready": "The inference server is not ready.",
    "server_unavailable": "The inference server is overloaded or away.",
    "shards_unavailable": "Some shards of the collection do not answer.",
    "model_changed": "The inference server switched to another model meanwhile; send the request again.",
    "overloaded": "Too many requests are arriving or in work.",
    "wrong_model": "The inference server has another document encoder than the collection.",
    "not_written": "The documents could not be written.",
    "not_readable": "The documents cannot be read now.",
    "server_too_slow": "The inference server timed out.",
}


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
