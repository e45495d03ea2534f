"""Curation of relevance judgements and training data: pooling, LLM judges, votes, deduplication (extra ``curate``)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from care_accel.curation.config import Config
    from care_accel.curation.loading import load_config
    from care_accel.curation.texts.redact import redact

# Imported lazily: `care-accel --help` must not wait for libraries.
_HOME_OF = {
    "Config": "care_accel.curation.config",
    "load_config": "care_accel.curation.loading",
    "redact": "care_accel.curation.texts.redact",
}

__all__ = ["Config", "load_config", "redact"]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'care_accel.curation' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)
