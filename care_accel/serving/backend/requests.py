"""A batch of requests: refused as a whole when too many wait, one by one when invalid, and else answered together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, TypeVar

from care_accel.errors import CareError, VersionRemoved
from care_accel.serving.backend.backlog import Backlog
from care_accel.serving.backend.tensors import Backend

_Request = TypeVar("_Request")


def respond(
    backend: Backend,
    backlog: Backlog,
    requests: Sequence[Any],
    read: Callable[[Any], _Request],
    answer: Callable[[list[_Request]], list[Any]],
) -> list[Any]:
    """Return a response for each request of a batch, in their order.

    Parameters
    ----------
    backend : Backend
    backlog : Backlog
    requests : sequence
        The server's requests.
    read : callable
        Returns the content of a request; raises `CareError` for an invalid one, which gets INVALID_ARG.
    answer : callable
        Returns a response for each of the valid requests. If it fails, each of them gets INTERNAL, and the model keeps
        serving.

    Raises
    ------
    VersionRemoved
        Of ``read`` or ``answer``: no request has an answer then.
    """
    begun = perf_counter()
    if why := backlog.overload_reason(len(requests)):
        return backend.overload(why, len(requests))
    responses: list[Any] = [None] * len(requests)
    valid: dict[int, _Request] = {}
    for position, request in enumerate(requests):
        try:
            valid[position] = read(request)
        except VersionRemoved:
            raise
        except CareError as mistake:
            responses[position] = backend.refusal(mistake)
        except Exception as failure:  # not the others' fault
            responses[position] = backend.failure(failure)
    if valid:
        try:
            answers = answer([*valid.values()])
        except VersionRemoved:
            raise
        except Exception as failure:  # every client gets an error
            answers = [backend.failure(failure) for _ in valid]
        for position, response in zip(valid, answers, strict=True):
            responses[position] = response
        backlog.record(len(requests), perf_counter() - begun)
    return responses
