"""A collection with a model that is quick, behind a gateway that may write to it."""

import pytest

pytest.importorskip("starlette", reason="needs the extra gateway")
pytest.importorskip("lance", reason="needs the extra collection")

from starlette.testclient import TestClient

from care_accel import Collection
from care_accel.serving.gateway import Settings
from care_accel.serving.gateway.app import create_app
from care_accel.serving.gateway.documents.store import DocumentStore

from .quick import READ, WRITE, Quick


@pytest.fixture
def quick():
    return Quick()


@pytest.fixture
def folder(tmp_path, quick):
    """Return the folder of a collection with two documents."""
    made = Collection.create(tmp_path / "articles", quick, fields={"day": "date"})
    made.upsert(
        [
            {"id": "a1", "title": "高血压", "text": "低盐饮食。", "department": "内科", "year": 2021},
            {"id": "a/2 ü", "text": "多喝水。", "department": "儿科", "year": 2023},
        ]
    )
    quick.encoded.clear()
    return tmp_path / "articles"


@pytest.fixture
def gateway(memory, quick, folder):
    """Return a function that opens a test client of a gateway in front of the collection."""
    opened = []

    def open_(*, writable=True, **options):
        settings = Settings(
            **{"rate": 0.0, "tokens": (READ,), "write_tokens": (WRITE,) if writable else (), **options}
        )
        store = DocumentStore(
            Collection.open(folder), (lambda: quick) if writable else None, patience=settings.timeout
        )
        client = TestClient(
            create_app(settings, memory, documents=store),
            base_url="http://localhost",
            raise_server_exceptions=False,
            headers={"authorization": f"Bearer {WRITE if writable else READ}"},
        )
        client.__enter__()
        opened.append(client)
        return client

    yield open_
    for client in opened:
        client.__exit__(None, None, None)


@pytest.fixture
def now(folder):
    """Return a function that reads the collection as it is now, by id."""

    def read():
        collection = Collection.open(folder)
        return {row["id"]: row for row in collection.get(collection.ids())}

    return read
