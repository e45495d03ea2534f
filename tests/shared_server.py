"""A real server of the committed repository, shared by the processes of a test run, as it takes a while to start."""

import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

REPOSITORY = Path(__file__).parents[1] / "model_repository"


class SharedServer:
    """The server, and who uses it. The process that starts it ends it when nobody uses it any more.

    Parameters
    ----------
    folder : Path
        Of the whole run.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / "server.json"
        self._own = None

    def start_early(self) -> None:
        """Start the server while other tests run; who needs it waits for it."""

        def start():
            with self._held() as known:
                self._ensure(known)

        threading.Thread(target=start, daemon=True).start()

    @contextmanager
    def use(self) -> Iterator[SimpleNamespace]:
        """Give the server: its addresses, its log and the process that keeps it."""
        with self._held() as known:
            self._ensure(known)
            known["users"] += 1
            values = known["server"]
        yield SimpleNamespace(
            **{name: values[name] for name in ("grpc", "http", "metrics")},
            log=Path(values["log"]),
            process=SimpleNamespace(pid=values["pid"]),
        )
        with self._held() as known:
            known["users"] -= 1

    def close(self) -> None:
        """End the server if this process started it, once the others are done."""
        while True:
            with self._held() as known:
                if self._own is None or not known["users"]:
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
            known |= {"users": 0, "server": server}

    @contextmanager
    def _held(self) -> Iterator[dict]:
        """Give the values in the file, and write them back; one process at a time."""
        with self._file.open("a+") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            stream.seek(0)
            values = json.loads(stream.read() or "{}")
            yield values
            stream.truncate(0)
            json.dump(values, stream)
            stream.flush()
