"""An HTTP gateway in front of a running inference server: OpenAI-compatible embeddings, search, and a page to try it."""

from care_accel.serving.gateway.settings import Settings

__all__ = ["Settings"]
