"""Serving: model repositories, what runs in them, and a server that runs them."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from care_accel.serving.repository.python_backend import write_repository
    from care_accel.serving.tritonserver.server import Server

__all__ = ["Server", "write_repository"]


def __getattr__(name: str) -> Any:
    # The models inside the server import from this package: they need no more than they name.
    if name == "Server":
        from care_accel.serving.tritonserver.server import Server

        return Server
    if name == "write_repository":
        from care_accel.serving.repository.python_backend import write_repository

        return write_repository
    raise AttributeError(f"module 'care_accel.serving' has no attribute {name!r}")
