"""A server that speaks S3, and collections in it. All is skipped where the packages are missing: `make stores` installs them."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "cluster" / "support"))

from care_accel import Collection, DualEncoder


@pytest.fixture(scope="session")
def model():
    return DualEncoder.from_pretrained("care-mini")


@pytest.fixture(scope="session")
def endpoint():
    """Return the address of an S3 server of this machine."""
    pytest.importorskip("moto", reason="needs moto: make stores")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    code = f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    address = f"http://127.0.0.1:{port}"
    for _ in range(300):
        try:
            urllib.request.urlopen(f"{address}/moto-api/data.json", timeout=5).close()
            break
        except OSError:
            assert process.poll() is None, "moto's server has ended"
            time.sleep(0.1)
    yield address
    process.terminate()
    process.wait(timeout=30)


@pytest.fixture(scope="session")
def options(endpoint):
    """Return the storage options of the server, with a bucket in it."""
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/care", method="PUT"), timeout=5).close()
    return {
        "aws_endpoint": endpoint,
        "aws_access_key_id": "test",
        "aws_secret_access_key": "secret-of-the-test",
        "aws_region": "us-east-1",
        "allow_http": "true",
    }


@pytest.fixture
def uri():
    return f"s3://care/{uuid.uuid4().hex}"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Keep the indexes of collections in object stores, which are in the user's cache, in the test's folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def environment(options, monkeypatch):
    """Have the options in the environment, as command lines take them."""
    for name, value in options.items():
        monkeypatch.setenv(name.upper().replace("ALLOW_HTTP", "AWS_ALLOW_HTTP"), value)
    return dict(os.environ)


@pytest.fixture
def collection(model, options, uri):
    return Collection.create(uri, model, storage_options=options)
