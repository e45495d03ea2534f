"""A mirror of the Hugging Face hub on this machine, for what ``HF_ENDPOINT`` names: repositories that are folders."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Mirror:
    """Repositories by address, such as ``datasets/owner/name`` or ``owner/name``, and what was asked for."""

    def __init__(self, repositories: dict[str, Path], commit: str) -> None:
        self.repositories, self.commit = repositories, commit
        self.address = ""
        self.asked: list[str] = []

    def describe(self, path: str) -> object:
        """Answer the hub's API: what a revision is, and its files."""
        kind, owner, name, what = path.removeprefix("/api/").split("/")[:4]
        folder = self.repositories[f"{owner}/{name}" if kind == "models" else f"{kind}/{owner}/{name}"]
        files = [
            (str(file.relative_to(folder)), file.stat().st_size)
            for file in folder.rglob("*")
            if file.is_file()
        ]
        if what == "tree":
            return [{"type": "file", "path": name, "size": size, "oid": "0" * 40} for name, size in files]
        return {
            "id": f"{owner}/{name}",
            "sha": self.commit,
            "siblings": [{"rfilename": name} for name, _ in files],
            "private": False,
            "gated": False,
            "tags": [],
        }

    def content(self, path: str) -> bytes:
        """Return a file's content."""
        repository, _, rest = path.removeprefix("/").partition("/resolve/")
        return (self.repositories[repository] / rest.partition("/")[2]).read_bytes()


@contextmanager
def mirror(repositories: dict[str, Path], commit: str = "c" * 40) -> Iterator[Mirror]:
    """Serve folders as repositories of the hub at one commit, on a free port of this machine."""
    served = Mirror(repositories, commit)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            served.asked.append(path)
            api = path.startswith("/api/")
            try:
                body = json.dumps(served.describe(path)).encode() if api else served.content(path)
            except (KeyError, ValueError, OSError):
                self.send_response(404)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("Content-Type", "application/json" if api else "application/octet-stream")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", f'"{sha256(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", served.commit)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
