"""What takes connections from a listener: what the network says of them, and how a listener is shut."""

import asyncio
import errno
import socket

import pytest

from goloves.server.listener import Acceptor, Handshakes, shut


class Troubled(socket.socket):
    """A listener whose `accept` fails some times first."""

    troubles: list[int] = []  # noqa: RUF012  # set on each one that is made

    def accept(self) -> tuple[socket.socket, object]:
        if self.troubles:
            number = self.troubles.pop(0)
            raise OSError(number, "as the network says")
        return super().accept()


def listening(troubles: list[int] | None = None) -> Troubled:
    made = Troubled()
    made.troubles = troubles or []
    made.bind(("127.0.0.1", 0))
    made.listen()
    made.setblocking(False)
    return made


async def test_what_the_network_says_of_a_connection_that_is_gone_stops_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    troubles = [
        errno.ECONNABORTED, errno.EPROTO, errno.ENETDOWN, errno.ENOPROTOOPT, errno.EHOSTDOWN, errno.ENONET,
        errno.EHOSTUNREACH, errno.EOPNOTSUPP, errno.ENETUNREACH, errno.EPERM, errno.EINTR,
    ]  # fmt: skip
    taken = asyncio.Event()

    class Taken(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            taken.set()
            transport.close()

    with listening(troubles) as listener:
        acceptor = Acceptor(listener, Taken, lambda: None)
        acceptor.start()
        _, writer = await asyncio.open_connection(*listener.getsockname())
        async with asyncio.timeout(20):
            await taken.wait()
        writer.close()
        acceptor.stop()
    assert not listener.troubles
    assert not caplog.records, "nothing escaped into the event loop"


async def test_what_waits_is_accepted_before_a_listener_is_shut_and_other_processes_see_its_end() -> None:
    taken: list[asyncio.BaseTransport] = []

    class Taken(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            taken.append(transport)

    with listening() as listener, listener.dup() as copy:
        where = listener.getsockname()
        clients = [socket.create_connection(where, 20) for _ in range(50)]
        acceptor = Acceptor(listener, Taken, lambda: None, is_due=lambda: False)
        acceptor.start()
        others = Acceptor(copy, Taken, lambda: None)
        others.start()
        acceptor.drain()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(where, 20)
        async with asyncio.timeout(20):
            while len(taken) < len(clients):  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        for client in clients:
            client.settimeout(0)
            with pytest.raises(BlockingIOError):
                client.recv(1)
            client.close()
        shut(copy)  # again, which is no trouble
        others.stop()
        for transport in taken:
            transport.close()


def test_handshakes_count_against_limits_until_they_are_over() -> None:
    handshakes = Handshakes(lambda address, held, pending: held < 2 and pending < 3)
    assert [handshakes.enter("a"), handshakes.enter("a"), handshakes.enter("a")] == [True, True, False]
    assert handshakes.enter("")
    assert not handshakes.enter("b")
    handshakes.leave("a")
    assert handshakes.enter("b")
    assert handshakes.open == 3
    for address in ("a", "", "b"):
        handshakes.leave(address)
    assert handshakes.open == 0
