"""HTTP gateway in front of an inference server: OpenAI-compatible embeddings, search, and a demo page."""

from care_accel.serving.gateway.settings import Settings

__all__ = ["Settings"]
