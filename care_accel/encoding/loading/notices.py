"""Notices about a checkpoint, logged once in a process however often it is loaded."""

from __future__ import annotations

import logging
from functools import cache

log = logging.getLogger(__name__)


@cache
def notice_once(message: str) -> None:
    """Log a message as a warning the first time."""
    log.warning("%s", message)
