"""What the tests of frameworks share. They are skipped where the frameworks are missing: `make clients` installs and runs them."""

import os
import re
import subprocess
import sys

import pytest

# Read when the packages are imported: no test sends anything to another host.
os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"
os.environ["LANGSMITH_TRACING"] = "false"

ROWS = [
    {
        "id": "a1",
        "title": "高血压饮食",
        "text": "高血压患者应低盐饮食，规律服药，定期测量血压。",
        "department": "内科",
        "year": 2021,
    },
    {
        "id": "a2",
        "title": "儿童发热",
        "text": "孩子发烧先量体温，多喝水，超过三天不退要就医。",
        "department": "儿科",
        "year": 2023,
    },
    {"id": "a3", "text": "骨折后应固定患肢，尽快拍片检查。", "department": "外科", "year": 2019},
    {"id": "a4", "title": "婴儿咳嗽", "text": "婴儿咳嗽伴喘息，应及时到儿科就诊。", "department": "儿科"},
]
LONG = "孩子发烧先量体温，多喝水。" * 3 + "骨折后应固定患肢，尽快拍片检查。" * 3


@pytest.fixture(scope="session")
def rows():
    return ROWS


@pytest.fixture(scope="session")
def texts():
    return [row["text"] for row in ROWS]


@pytest.fixture(scope="session")
def collection(embedded_model, tmp_path_factory):
    from care_accel import Collection

    made = Collection.create(tmp_path_factory.mktemp("clients") / "articles", embedded_model)
    made.upsert(ROWS)
    return made


@pytest.fixture(scope="session")
def chunked(embedded_model, tmp_path_factory):
    """Return a collection of one document, `LONG`, in chunks."""
    from care_accel import Collection

    made = Collection.create(tmp_path_factory.mktemp("clients") / "chunked", embedded_model, chunk_tokens=24)
    made.upsert([{"id": "long", "text": LONG}])
    return made


@pytest.fixture(scope="session")
def gateway(care_server):
    """Return the address of a gateway in front of a real server, started as users start it."""
    command = ("-m", "care_accel", "gateway", "--server", care_server.grpc, "--port", "0", "--rate", "0")
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)
    yield re.search(r"http://\S+:\d+", process.stdout.readline())[0]
    process.terminate()
    process.communicate(timeout=60)
