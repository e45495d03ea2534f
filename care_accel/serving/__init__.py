"""Serving with NVIDIA Triton Inference Server: model repositories, their Python models, and a server process."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from care_accel.serving.repository.python_backend import write_repository
    from care_accel.serving.tritonserver.server import Server

__all__ = ["Server", "write_repository"]


def __getattr__(name: str) -> Any:
    # Lazy: models inside the server import from this package, and should load only what they use.
    if name == "Server":
        from care_accel.serving.tritonserver.server import Server

        return Server
    if name == "write_repository":
        from care_accel.serving.repository.python_backend import write_repository

        return write_repository
    raise AttributeError(f"module 'care_accel.serving' has no attribute {name!r}")
