"""Folders: created, replaced in one step, and temporary ones, of which a killed process leaves none for good."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from care_accel.errors import ELSEWHERE, CareError, full_disk, tells_full_disk

# What `tempfile` appends to a prefix.
_RANDOM = re.compile("[a-z0-9_]{8}")
# Seconds. A younger folder may be one whose process has not locked it yet.
_YOUNG = 60.0
_NEW, _OLD = "new", "old"


def make_folder(folder: Path, name: str) -> None:
    """Create an output folder if it is missing.

    Raises
    ------
    CareError
        The folder cannot be created or is not writable; the message starts with ``name``, such as ``--output``.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as cause:
        raise CareError(f"{name} {folder}: cannot be created: {cause.strerror}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise CareError(f"{name} {folder}: not writable")


@contextmanager
def replaced_folder(
    folder: Path,
    manifest: str,
    parts: Collection[str] = (),
    *,
    old_manifests: Collection[str] = (),
    private: bool = True,
) -> Iterator[Path]:
    """Replace a folder atomically: yield a temporary folder, which replaces ``folder`` at the end of the context.

    If writing fails, as on a full disk, ``folder`` is unchanged. If the process is killed, ``folder`` is either as before or replaced, where the
    file system can exchange two names in one step; elsewhere a kill between two renames leaves it beside its place. The
    next one to replace it puts it back, and removes what killed processes left.

    Parameters
    ----------
    folder : Path
    manifest : str
        File that identifies a folder of this kind.
    parts : collection of str
        Other names that such a folder may contain.
    old_manifests : collection of str
        Names of the manifest in earlier releases.
    private : bool
        Make the folder readable by its owner only.

    Raises
    ------
    CareError
        Other data would be lost: ``folder`` is a file, or a folder without the manifest or with other names. Or the disk is full.
    """
    folder = folder.resolve()  # replace the target of a link, not the link
    if folder.exists() and not folder.is_dir():
        raise CareError(f"{folder} is a file; choose a folder")
    if folder.exists():
        names = {entry.name for entry in folder.iterdir()}
        manifests = {manifest, *old_manifests}
        if names and not names & manifests:
            raise CareError(f"{folder} exists and has no {manifest}; choose another folder")
        if others := sorted(names - {*manifests, *parts}):
            raise CareError(
                f"{folder} contains {others[0]}, which saving would delete; choose another folder"
            )
    make_folder(folder.parent, "the folder")
    prefix = f".{folder.name}-"
    for left in _left_behind(folder.parent, prefix):
        _clear(left, folder)
    try:
        sibling = tempfile.TemporaryDirectory(dir=folder.parent, prefix=prefix)
    except OSError as cause:
        why = full_disk(cause) or f"not writable ({cause.strerror})"
        raise CareError(f"{folder.parent}: {why}; choose another folder") from None
    with sibling as temporary, _locked(Path(temporary)):
        built, old = Path(temporary) / _NEW, Path(temporary) / _OLD
        built.mkdir(mode=0o700 if private else 0o777)
        with tells_full_disk(folder, f"nothing there has changed; {ELSEWHERE}", inside=built):
            yield built
        if folder.exists() and _exchanged(built, folder):
            return
        try:
            if folder.exists():
                os.replace(folder, old)
            os.replace(built, folder)
        except BaseException:
            if old.exists() and not folder.exists():
                os.replace(old, folder)
            raise


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two folders in one step; return whether the system could."""
    import ctypes

    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    return rename is not None and rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


@contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """Yield a folder in the system's temporary folder, which is removed at the end of the context.

    Those of the same user and prefix whose process was killed are removed as well.

    Parameters
    ----------
    prefix : str
        Of its name; no other program may use it.
    """
    for left in _left_behind(Path(tempfile.gettempdir()), prefix):
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix) as made, _locked(Path(made)):
        yield Path(made)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder: the system releases it when this process ends, however that happens."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # some network file systems have no locks: what is left there is not removed
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _left_behind(parent: Path, prefix: str) -> list[Path]:
    """Return the temporary folders of this user that no process has locked."""
    found = []
    with suppress(OSError):
        for entry in os.scandir(parent):
            name = entry.name
            if name.startswith(prefix) and _RANDOM.fullmatch(name[len(prefix) :]) and _is_free(entry):
                found.append(Path(entry.path))
    return found


def _is_free(entry: os.DirEntry[str]) -> bool:
    try:
        about = entry.stat(follow_symlinks=False)
        if about.st_uid != os.getuid() or time.time() - about.st_ctime < _YOUNG:
            return False
        handle = os.open(entry.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def _clear(left: Path, folder: Path) -> None:
    """Remove what a killed process left beside a folder, or put the folder back if it is in there."""
    try:
        if not {entry.name for entry in left.iterdir()} <= {_NEW, _OLD}:
            return  # somebody else's
        if (left / _OLD).exists() and not folder.exists():
            os.replace(left / _OLD, folder)
    except OSError:
        return  # it may hold the only copy
    shutil.rmtree(left, ignore_errors=True)
