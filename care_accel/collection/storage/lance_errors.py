"""What Lance says went wrong, in one line for the user."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from care_accel.errors import CareError, VersionRemoved, full_disk

# How Lance names commits that other writers came before, again and again.
_CONFLICT = re.compile(r"conflict|concurrent writer|retry.*(timeout|timed out)", re.IGNORECASE)
# How it names a file of a version that another process has removed.
REMOVED = re.compile(r"not found: .*\.lance", re.IGNORECASE)
# How an object store's client names its failures.
_STORE = re.compile(r"Generic \w+ error")
GONE = "the version that is open was removed by compact meanwhile; refresh, or open the collection again"
# Where in its source Lance raised an error; and the prefixes that it puts before one.
_NOISE = re.compile(r",? ?/[\w./-]+\.rs:\d+:\d+|LanceError\(\w+\): |Invalid user input: |Schema error: ")


class WriteConflict(CareError):
    """Other writers kept changing the same documents: the same call again may succeed."""


class NoCollection(CareError):
    """Nothing is at the address."""


class Replaced(CareError):
    """Another collection has taken the place of the one that is open."""


@contextmanager
def lance_errors(uri: str) -> Iterator[None]:
    """Raise `CareError` for what Lance and Arrow raise."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, pa.ArrowInvalid) as cause:
        if isinstance(cause, CareError):
            raise
        raise translated(uri, cause) from None


def translated(uri: str, cause: Exception) -> CareError:
    """Return the error for the user of one of Lance's."""
    text = cleaned(cause)
    lower = text.lower()
    if full := full_disk(cause):
        return CareError(f"{uri}: {full}; what was committed before is whole, free some space and go on")
    if "permission denied" in lower or "read-only file system" in lower:
        return CareError(f"{uri}: not writable or not readable: {text[:200]}")
    if "feature" in lower and ("upgrade" in lower or "support" in lower or "flag" in lower):
        return CareError(
            f"{uri}: the table was written by a newer release of Lance ({text[:200]}); upgrade pylance"
        )
    if _STORE.search(text):
        return CareError(f"{uri}: {_of_store(text)}")
    if "already exists" in lower:
        return CareError(f"{uri} is a collection already; open it, or choose another address")
    if _CONFLICT.search(text):
        return WriteConflict(f"{uri}: other writers changed the same documents meanwhile; try again")
    if "was not found" in lower or "/_versions" in lower:
        return NoCollection(
            f"{uri}: there is no collection; create one with Collection.create or care-accel index"
        )
    if REMOVED.search(text):
        return VersionRemoved(f"{uri}: {GONE}")
    return CareError(f"{uri}: {text[:400]}")


def _of_store(text: str) -> str:
    """Return what an object store that cannot be used says."""
    if "builder error" in text:
        return "the object store's address is not one of https; allow http with AWS_ALLOW_HTTP=true or allow_http"
    if "NoSuchBucket" in text:
        return "the bucket does not exist; create it, or give another one"
    if "error sending request" in text:
        return f"the object store cannot be reached: {text[:300]}"
    if re.search(r"\b40[13]\b|forbidden|access.?denied|credential|signature", text, re.IGNORECASE):
        return (
            "the object store refuses: check keys and region (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, or "
            f"storage_options): {text[:300]}"
        )
    return f"the object store fails: {text[:400]}"


def cleaned(cause: Exception) -> str:
    return " ".join(_NOISE.sub("", str(cause)).split())
