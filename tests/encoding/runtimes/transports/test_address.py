import pytest

from care_accel import CareError
from care_accel.encoding.runtimes.transports import Address


@pytest.mark.parametrize(
    ("text", "address", "shown"),
    [
        ("localhost:8001", ("grpc", "localhost", 8001), "localhost:8001"),
        ("grpc://localhost:8001", ("grpc", "localhost", 8001), "localhost:8001"),
        ("http://10.0.0.1:8000", ("http", "10.0.0.1", 8000), "http://10.0.0.1:8000"),
        ("http://search.example:8000/", ("http", "search.example", 8000), "http://search.example:8000"),
        ("http://[::1]:8000", ("http", "[::1]", 8000), "http://[::1]:8000"),
    ],
)
def test_an_address_says_the_protocol(text, address, shown):
    assert Address.read(text) == address
    assert str(Address.read(text)) == shown
    assert Address.read(str(Address.read(text))) == address


@pytest.mark.parametrize(
    "address",
    [
        *("", "localhost", "localhost:", "a b:1", "a:0", "a:65536", None, "::1:80", "localhost:8001/"),
        *(
            "https://localhost:8000",
            "http://localhost",
            "http://localhost:8000/v2",
            "http://me:word@localhost:8000",
        ),
    ],
)
def test_what_is_no_address_is_refused(address):
    with pytest.raises(CareError, match="not an address of an inference server"):
        Address.read(address)
