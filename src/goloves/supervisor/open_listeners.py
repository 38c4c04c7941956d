"""The listeners of a service: opened once, by the first supervisor, and handed on for as long as the service lives."""

import socket
from collections.abc import Iterator
from dataclasses import dataclass

from goloves.config import Config
from goloves.config.addresses import Address, parse_address
from goloves.server.listener import address_of, close_listener, listen, shut


@dataclass(frozen=True, slots=True)
class Opened:
    """What one address of the configuration became: one socket, or several for a name with several addresses."""

    kind: str
    """`http`, `grpc` or `admin`: the section."""
    text: str
    """The address as configured."""
    sockets: tuple[socket.socket, ...]


class OpenListeners:
    """All listeners of a service."""

    def __init__(self) -> None:
        self.opened: list[Opened] = []
        self.keep_files = False
        """Whether they are (still, or by now, or perhaps soon) another supervisor's too: then the files of sockets stay
        at the end, and nothing is shut."""
        self._fresh: list[Opened] = []
        """Those of `opened` that another supervisor does not have, whatever `keep_files` says."""
        self._left: list[Opened] = []
        """Inherited, and not wanted here: kept up to `settle`, for as long as their files have to be known."""

    def open(self, config: Config, inherited: "OpenListeners | None" = None) -> None:
        """Listen on everything that is configured; what is `inherited` is used as it is.

        Raises ConfigError; everything opened here is closed then.
        """
        there = {(each.kind, each.text): each for each in inherited.opened} if inherited is not None else {}
        fresh: list[Opened] = []
        try:
            for kind, text in wanted(config):
                found = there.pop((kind, text), None)
                if found is None:
                    found = Opened(kind, text, tuple(listen(parse_address(text), f"{kind}.listen")))
                    fresh.append(found)
                self.opened.append(found)
        except BaseException:
            self.opened = []
            for made in fresh:
                for each in made.sockets:
                    close_listener(each)
            raise
        if inherited is not None:
            self._fresh, self._left = fresh, list(there.values())

    def settle(self) -> None:
        """Note that these are nobody else's any more; connects to what was inherited and is not wanted are refused."""
        self.keep_files = False
        for left in self._left:
            for each in left.sockets:
                shut(each)
                close_listener(each)
        self._fresh, self._left = [], []

    def of(self, *kinds: str) -> Iterator[tuple[str, socket.socket]]:
        """Give the sockets of some kinds, each with its kind."""
        for opened in self.opened:
            if opened.kind in kinds:
                yield from ((opened.kind, each) for each in opened.sockets)

    def addresses(self, kind: str) -> list[Address]:
        """Say where listeners of a kind stand."""
        return [address_of(each) for _, each in self.of(kind)]

    def shut(self) -> None:
        """Refuse connects for ids from now on, in all nodes, unless another supervisor has the listeners as well."""
        if not self.keep_files:
            for _, each in self.of("http", "grpc"):
                shut(each)

    def close(self) -> None:
        """Close them all; the files of Unix sockets go too, unless another supervisor has them now."""
        for opened in (*self.opened, *self._left):
            for each in opened.sockets:
                close_listener(each, keep_file=self.keep_files and opened not in self._fresh)
        self.opened = []


def wanted(config: Config) -> Iterator[tuple[str, str]]:
    """Give kind and address of everything to listen on."""
    yield from (("http", text) for text in config.http.listen)
    yield from (("grpc", text) for text in config.grpc.listen)
    if config.admin.listen:
        yield ("admin", config.admin.listen)
