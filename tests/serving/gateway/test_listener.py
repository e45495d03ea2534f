"""Sockets of the gateway."""

import asyncio
import socket

import pytest

from care_accel.serving.gateway.listener import is_loopback, listen, url_of


def test_small_answers_do_not_wait_for_nagle_s_algorithm():
    async def accepted_without_delay(sockets):
        found = asyncio.get_running_loop().create_future()

        def greet(_reader, writer):
            transport = writer.get_extra_info("socket")
            found.set_result(transport.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        async with await asyncio.start_server(greet, sock=sockets[0]):
            _, writer = await asyncio.open_connection(*sockets[0].getsockname())
            writer.close()
            return await found

    with listen("127.0.0.1", 0) as sockets:
        assert asyncio.run(accepted_without_delay(sockets)) != 0


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
    ],
)
def test_loopback_is_told_from_what_others_reach(host, local):
    assert is_loopback(host) is local


def test_an_address_is_a_url():
    with listen("127.0.0.1", 0) as sockets:
        assert url_of(sockets) == f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
