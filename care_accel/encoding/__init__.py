"""Text to vectors: what an encoder is, one encoder, and the two of a dual encoder."""

from care_accel.encoding.dual import DualEncoder
from care_accel.encoding.encoder import Encoder
from care_accel.encoding.spec import ROLES, TASKS, EncoderSpec, Role, Task, preset

__all__ = ["ROLES", "TASKS", "DualEncoder", "Encoder", "EncoderSpec", "Role", "Task", "preset"]
