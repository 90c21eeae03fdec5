"""The socket: taken at once, listening only when everything is ready."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from senryu.errors import SettingError
from senryu.server import bind, origin
from server import Server


def test_a_taken_address_refuses_connections_until_it_is_listened_on() -> None:
    with bind("127.0.0.1", 0) as taken:
        address = taken.getsockname()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, timeout=5)
        taken.listen()
        socket.create_connection(address, timeout=5).close()


def test_an_address_in_use_is_refused_by_name(tiny_server: Server) -> None:
    port = int(tiny_server.url.rsplit(":", 1)[1])
    with pytest.raises(SettingError, match=rf"cannot listen on 127\.0\.0\.1 port {port}: .*--port"):
        bind("127.0.0.1", port)


def test_a_host_that_is_none_is_refused_by_name() -> None:
    with pytest.raises(SettingError, match="cannot listen on no-such-host"):
        bind("no-such-host.invalid", 0)


@pytest.mark.parametrize(
    ("host", "shown"),
    [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::1", "[::1]"), ("::", "[::1]")],
)
def test_the_origin_is_one_that_this_machine_can_reach(host: str, shown: str) -> None:
    if ":" in host and not Path("/proc/net/if_inet6").exists():
        pytest.skip("the system has no IPv6")
    try:
        taken = bind(host, 0)
    except SettingError:
        pytest.skip(f"the system cannot bind {host}")
    with taken:
        assert origin(taken) == f"http://{shown}:{taken.getsockname()[1]}"
