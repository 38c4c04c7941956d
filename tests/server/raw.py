"""A client that writes what bytes it likes and reads answers strictly."""

import socket
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import msgspec

from goloves.config.addresses import Address
from server.live import PATIENCE


@dataclass(frozen=True)
class Response:
    """An answer as it was read."""

    status: int
    headers: dict[str, str]
    """By lower-case name; the client fails on a name that is there twice."""
    body: bytes

    @property
    def json(self) -> dict[str, object]:
        return msgspec.json.decode(self.body, type=dict[str, object])


class ClosedError(Exception):
    """The server closed the connection (`reset`: by a reset) where an answer was due."""

    def __init__(self, rest: bytes, *, reset: bool = False) -> None:
        super().__init__(f"closed after {rest!r}" + (", by a reset" if reset else ""))
        self.rest = rest
        self.reset = reset


class Client:
    """A connection. `buffers`: bytes that the kernel keeps for it, each way; 0 leaves that to the kernel.

    `source`: the address that it comes from, of those in 127.0.0.0/8.
    """

    def __init__(self, address: Address, *, buffers: int = 0, source: str = "") -> None:
        family = socket.AF_UNIX if address.path else socket.AF_INET6 if ":" in address.host else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.settimeout(PATIENCE)
        if buffers:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffers)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffers)
        try:
            if source:
                self.socket.bind((source, 0))
            self.socket.connect(address.path or (address.host, address.port))
        except OSError:
            self.socket.close()
            raise
        if not address.path:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(self, data: bytes) -> Self:
        self.socket.sendall(data)
        return self

    def half_close(self) -> Self:
        self.socket.shutdown(socket.SHUT_WR)
        return self

    def ask(self, target: str = "/api/segment/get/order", method: str = "GET", headers: str = "") -> Response:
        """Send a plain request and read its answer."""
        self.send(f"{method} {target} HTTP/1.1\r\nHost: test\r\n{headers}\r\n".encode())
        return self.read(headless=method == "HEAD")

    def read(self, *, headless: bool = False) -> Response:
        """Read one answer, which has to be well formed."""
        while b"\r\n\r\n" not in self._buffer:
            self._more()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        lines = head.decode("ascii").split("\r\n")
        version, status, _ = lines[0].split(" ", 2)
        assert version == "HTTP/1.1"
        headers: dict[str, str] = {}
        for line in lines[1:]:
            name, _, value = line.partition(": ")
            assert name.lower() not in headers
            headers[name.lower()] = value
        length = int(headers.get("content-length", "0"))
        if headless or status == "100":
            return Response(int(status), headers, b"")
        while len(self._buffer) < length:
            self._more()
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        return Response(int(status), headers, body)

    def read_to_end(self) -> bytes:
        """Read until the server closes; ClosedError if by a reset."""
        while True:
            try:
                self._more()
            except ClosedError as closed:
                if closed.reset:
                    raise
                return closed.rest

    def closes(self) -> bool:
        """Whether the server closes now, without a word and without a reset."""
        return self.read_to_end() == b""

    def _more(self) -> None:
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError:
            raise ClosedError(self._buffer, reset=True) from None
        if not data:
            rest, self._buffer = self._buffer, b""
            raise ClosedError(rest)
        self._buffer += data
