"""Addresses to listen on, as people write them: `host:port`, `[ipv6]:port`, `unix:/path`."""

import ipaddress
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Address:
    """Where a listener stands: host and port, or the path of a Unix socket."""

    host: str = ""
    """Name or number, IPv6 without brackets; empty for a Unix socket."""
    port: int = 0
    """0 lets the system choose; means nothing for a Unix socket."""
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches it: a Unix socket, a loopback number, or `localhost` (SAFETY R8)."""
        if self.path or self.host.lower() == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def is_wildcard(self) -> bool:
        """Whether it stands for all addresses of the machine."""
        return self.host in ("0.0.0.0", "::")

    def overlaps(self, other: "Address") -> bool:
        """Whether the two can't be listened on at once, as far as their spelling tells."""
        if self.path or other.path:
            return self.path == other.path
        if self.port != other.port or self.port == 0:
            return False
        if self.host.lower() == other.host.lower():
            return True
        same_family = (":" in self.host) == (":" in other.host)
        return same_family and (self.is_wildcard or other.is_wildcard)


def parse_address(text: str) -> Address:
    """Read an address; ValueError says what is wrong with it."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        # Linux keeps the path of a Unix socket in 108 bytes, the closing zero included.
        if not path or "\0" in path or len(path.encode()) > 107:
            raise ValueError("a Unix socket is unix:/path, with a path of 1 to 107 bytes")
        return Address(path=path)
    host, colon, port = text.rpartition(":")
    if not colon:
        raise ValueError(_likely(text))
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        raise ValueError(f"its port {port!r} is not a number from 0 to 65535")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise ValueError(f"{host!r} is no IPv6 address") from None
    elif ":" in host:
        raise ValueError(f"an IPv6 address stands in brackets: [{host}]:{port}")
    if not host:
        raise ValueError(f"the host is missing; 0.0.0.0:{port} is every IPv4 address, [::]:{port} every IPv6 address")
    if host == "*" or any(c.isspace() or c in "/?#@" for c in host):
        raise ValueError(f"{host!r} is no host; write host:port, [ipv6]:port or unix:/path")
    return Address(host=host, port=int(port))


def _likely(text: str) -> str:
    if text.isascii() and text.isdigit():
        return f"the host is missing; 127.0.0.1:{text} is this machine only, 0.0.0.0:{text} every IPv4 address"
    if text.startswith("/"):
        return f"a Unix socket is written unix:{text}"
    return "the port is missing; write host:port, [ipv6]:port or unix:/path"
