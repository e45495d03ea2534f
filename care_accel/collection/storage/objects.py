"""Small files beside a table, in a folder or an object store: written whole, and some of them once."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from care_accel.collection.storage.layout import is_remote, located
from care_accel.errors import CareError, not_written

# Of the HTTP client, which obstore takes apart from those of the store.
_CLIENT = (
    "allow_http",
    "allow_invalid_certificates",
    "connect_timeout",
    "proxy_url",
    "timeout",
    "user_agent",
)
# Options that Lance alone knows.
_LANCE = ("download_retry_count", "client_max_retries", "client_retry_timeout")


@dataclass(frozen=True)
class Entry:
    """A file.

    Attributes
    ----------
    name : str
        Below the folder, without further folders.
    bytes : int
    modified : float
        Seconds since 1970.
    """

    name: str
    bytes: int
    modified: float


class Objects(Protocol):
    """The files of one folder.

    Attributes
    ----------
    where : str
        The folder or address, for messages.
    """

    where: str

    def read(self, name: str) -> bytes | None:
        """Return a file's content, None if there is none."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Write a file whole, or replace it."""
        ...

    def create(self, name: str, data: bytes) -> bool:
        """Write a file whole unless it is there; return whether it was written. Of several at once, one is."""
        ...

    def entries(self) -> list[Entry]:
        """Return the files, in no order."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file; one that is missing is fine."""
        ...

    def clear(self) -> None:
        """Remove all files."""
        ...


def objects_of(uri: str, storage_options: Mapping[str, str] | None = None) -> Objects:
    """Return the files below an address.

    Raises
    ------
    CareError
        The object store is of an unknown kind, or obstore is missing.
    """
    uri = located(uri)
    return StoreObjects(uri, storage_options) if is_remote(uri) else FolderObjects(Path(uri))


class FolderObjects:
    """The files of a folder, which only its owner can read; it is created by the first file.

    Parameters
    ----------
    folder : Path
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(os.path.abspath(folder))
        self.where = str(self.folder)

    def read(self, name: str) -> bytes | None:
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as cause:
            raise CareError(f"{self.folder / name}: cannot be read: {cause.strerror}") from None

    def write(self, name: str, data: bytes) -> None:
        with self._temporary(name, data) as temporary:
            os.replace(temporary, self.folder / name)

    def create(self, name: str, data: bytes) -> bool:
        with self._temporary(name, data) as temporary:
            try:
                # A link to a name that is there fails, on network file systems too.
                os.link(temporary, self.folder / name)
            except FileExistsError:
                return False
            return True

    def entries(self) -> list[Entry]:
        found = []
        try:
            for entry in os.scandir(self.folder):
                if entry.is_file() and not entry.name.endswith(".tmp"):
                    stat = entry.stat()
                    found.append(Entry(entry.name, stat.st_size, stat.st_mtime))
        except FileNotFoundError:
            return found
        except OSError as cause:
            raise CareError(f"{self.folder}: cannot be read: {cause.strerror}") from None
        return found

    def remove(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)

    def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextmanager
    def _temporary(self, name: str, data: bytes) -> Iterator[Path]:
        temporary = self.folder / f"{name}.{uuid.uuid4().hex}.tmp"
        try:
            if not self.folder.is_dir():
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            number = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(number, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            yield temporary
        except OSError as cause:
            raise not_written(self.folder / name, cause) from None
        finally:
            with suppress(OSError):
                temporary.unlink()


class StoreObjects:
    """The files below an address of an object store; creating one is a conditional PUT.

    Parameters
    ----------
    uri : str
    storage_options : mapping of str to str, optional
        As Lance takes them; what is missing is taken from the environment.
    """

    def __init__(self, uri: str, storage_options: Mapping[str, str] | None = None) -> None:
        self.where = uri.rstrip("/")
        try:
            import obstore
            from obstore import store
        except ImportError:
            raise CareError(
                f"{uri}: files of an object store need the package obstore: pip install 'care-accel[cluster]'"
            ) from None
        self._obstore: Any = obstore
        given = {name.lower(): value for name, value in (storage_options or {}).items()}
        client: dict[str, Any] = {name: given.pop(name) for name in _CLIENT if name in given}
        # Lance takes it from the environment too; obstore does not.
        plain = given.pop(
            "aws_allow_http", client.get("allow_http", os.environ.get("AWS_ALLOW_HTTP", "false"))
        )
        client["allow_http"] = str(plain).lower() in ("true", "1")
        for name in _LANCE:
            given.pop(name, None)
        try:
            self._store = store.from_url(self.where, config=given, client_options=client)
        except Exception as cause:  # obstore has its own kinds, without a common base of use here
            raise self._failed("cannot be opened", cause) from None

    def read(self, name: str) -> bytes | None:
        try:
            return bytes(self._obstore.get(self._store, name).bytes())
        except FileNotFoundError:
            return None
        except Exception as cause:
            raise self._failed(f"{name} cannot be read", cause) from None

    def write(self, name: str, data: bytes) -> None:
        try:
            self._obstore.put(self._store, name, data)
        except Exception as cause:
            raise self._failed(f"{name} cannot be written", cause) from None

    def create(self, name: str, data: bytes) -> bool:
        try:
            self._obstore.put(self._store, name, data, mode="create", use_multipart=False)
        except Exception as cause:
            # A retry after a lost answer meets the file that the first try wrote.
            if self.read(name) is None:
                raise self._failed(f"{name} cannot be created", cause) from None
            return self.read(name) == data
        return True

    def entries(self) -> list[Entry]:
        try:
            return [
                Entry(entry["path"], entry["size"], entry["last_modified"].timestamp())
                for some in self._obstore.list(self._store)
                for entry in some
                if "/" not in entry["path"]
            ]
        except Exception as cause:
            raise self._failed("cannot be listed", cause) from None

    def remove(self, name: str) -> None:
        try:
            self._obstore.delete(self._store, name)
        except FileNotFoundError:
            return
        except Exception as cause:
            raise self._failed(f"{name} cannot be removed", cause) from None

    def clear(self) -> None:
        for entry in self.entries():
            self.remove(entry.name)

    def _failed(self, what: str, cause: Exception) -> CareError:
        text = str(cause).partition("Debug source:")[0]
        return CareError(f"{self.where}: {what}: {' '.join(text.split())[:300]}")
