"""A real server of the committed repository, shared by the processes of a test run because it starts slowly."""

import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

REPOSITORY = Path(__file__).parents[2] / "model_repository"


class SharedServer:
    """The server, with the ids of the processes that use it. The process that started it stops it after the last use.

    Parameters
    ----------
    folder : Path
        Shared by all processes of the run.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / "server.json"
        self._own = None

    def start_early(self) -> None:
        """Start the server in the background, while tests that do not need it run."""

        def start():
            with self._held() as known:
                self._ensure(known)

        threading.Thread(target=start, daemon=True).start()

    @contextmanager
    def use(self) -> Iterator[SimpleNamespace]:
        """Yield the server: its addresses, its log and the process that supervises it."""
        with self._held() as known:
            self._ensure(known)
            known["users"].append(os.getpid())
            values = known["server"]
        yield SimpleNamespace(
            **{name: values[name] for name in ("grpc", "http", "metrics")},
            log=Path(values["log"]),
            process=SimpleNamespace(pid=values["pid"]),
        )
        with self._held() as known:
            known["users"].remove(os.getpid())

    def close(self) -> None:
        """Stop the server if this process started it, once no live process uses it."""
        while True:
            with self._held() as known:
                if self._own is None or not any(Path(f"/proc/{user}").exists() for user in known["users"]):
                    if self._own is not None:
                        self._own.__exit__()
                        known.clear()
                    return
            time.sleep(0.2)

    def _ensure(self, known: dict) -> None:
        from care_accel.serving import Server

        if not known:
            self._own = Server(REPOSITORY, log=self._folder / f"server-{os.getpid()}.log").start(timeout=300)
            addresses = {name: getattr(self._own, name) for name in ("grpc", "http", "metrics")}
            server = addresses | {"log": str(self._own.log), "pid": self._own.process.pid}
            known |= {"users": [], "server": server}

    @contextmanager
    def _held(self) -> Iterator[dict]:
        """Yield the contents of the file under an exclusive lock, and write them back."""
        with self._file.open("a+") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            stream.seek(0)
            values = json.loads(stream.read() or "{}")
            yield values
            stream.truncate(0)
            json.dump(values, stream)
            stream.flush()
