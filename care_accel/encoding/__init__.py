"""Texts to embeddings: encoder specs, encoders and dual encoders, in this process or in an inference server."""

from care_accel.encoding.base import BaseDualEncoder
from care_accel.encoding.dual import DualEncoder
from care_accel.encoding.encoder import Encoder
from care_accel.encoding.runtimes.server import AsyncServerClient, ServerClient
from care_accel.encoding.served import ServedDualEncoder
from care_accel.encoding.spec import ROLES, TASKS, Dense, EncoderSpec, Role, Task, preset

__all__ = [
    "ROLES",
    "TASKS",
    "AsyncServerClient",
    "BaseDualEncoder",
    "Dense",
    "DualEncoder",
    "Encoder",
    "EncoderSpec",
    "Role",
    "ServedDualEncoder",
    "ServerClient",
    "Task",
    "preset",
]
