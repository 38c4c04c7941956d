"""Store URLs: what they mean, without a password ever reaching a message.

Rules:
1. A URL is taken apart once, here; everything else sees a `StoreUrl`, whose `repr` and `address` hold no password.
2. What can't be understood is refused with ConfigError, naming what is possible and not repeating the URL: it may hold
   a password in a place where nobody looks for one.
"""

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from goloves.errors import ConfigError

FORMS = "sqlite:///path, mysql://user:password@host/database or postgresql://user:password@host/database"

SCHEMES = {
    "sqlite": "sqlite",
    "mysql": "mysql",
    "mariadb": "mysql",
    "postgresql": "postgresql",
    "postgres": "postgresql",
}
"""Scheme to dialect."""

LATER = ("etcd", "zookeeper")

PORTS = {"mysql": 3306, "postgresql": 5432}

SSL_MODES = ("disable", "require", "verify-ca", "verify-full")
"""As libpq names them; `require` encrypts without looking at the certificate. There is no `prefer`: a peer in the
middle could talk it out of encryption."""


@dataclass(frozen=True)
class StoreUrl:
    """A store URL taken apart."""

    dialect: str
    """`sqlite`, `mysql` or `postgresql`."""
    database: str
    """Name of the database; for SQLite the file's path."""
    host: str = ""
    port: int = 0
    user: str = ""
    password: str = field(default="", repr=False)
    socket: str = ""
    """Path of a Unix socket (PostgreSQL: of its directory), instead of host and port."""
    ssl_mode: str = "disable"
    ssl_ca: str = ""

    @property
    def address(self) -> str:
        """Say where the store is, without user and password; two nodes at one store have the same."""
        if self.dialect == "sqlite":
            return f"sqlite:///{Path(self.database).absolute()}"
        place = self.socket or f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"
        return f"{self.dialect}://{place}/{self.database}"

    def ssl_context(self) -> ssl.SSLContext | None:
        """Give what the connection is encrypted with; None if it is not."""
        if self.ssl_mode == "disable":
            return None
        try:
            context = ssl.create_default_context(cafile=self.ssl_ca or None)
        except OSError as error:
            raise ConfigError(f"the file of sslrootcert can't be read: {error}") from error
        context.check_hostname = self.ssl_mode == "verify-full"
        if self.ssl_mode == "require":
            context.verify_mode = ssl.CERT_NONE
        return context


def parse_store_url(text: str, *, password: str | None = None) -> StoreUrl:
    """Take a store URL apart; `password` is used where the URL names a user and no password. Raises ConfigError."""
    scheme, separator, _ = text.partition("://")
    if not separator:
        raise ConfigError(f"the store URL has no scheme; a store URL looks like {FORMS}")
    scheme = scheme.lower()
    if scheme in LATER:
        raise ConfigError(f"{scheme}:// stores come in a later version; this one knows {FORMS}")
    if scheme not in SCHEMES:
        raise ConfigError(f"there are no {scheme[:40]!r} stores; a store URL looks like {FORMS}")
    dialect = SCHEMES[scheme]
    if dialect == "sqlite":
        return _sqlite(text)
    try:
        parts = urlsplit(text)
        host, port = unquote(parts.hostname or ""), parts.port
    except ValueError:
        raise ConfigError(f"the {scheme}:// store URL can't be read: {_HINT}") from None
    if "@" in unquote(parts.path) or parts.fragment:
        raise ConfigError(f"the {scheme}:// store URL can't be read: {_HINT}")
    options = _options(scheme, parts.query, {"unix_socket", "host", "sslmode", "sslrootcert"})
    socket = options.get("unix_socket") or options.get("host", "")
    database = unquote(parts.path.removeprefix("/"))
    if not database or "/" in database:
        raise ConfigError(f"the {scheme}:// store URL names no database; it looks like {FORMS}")
    if not host and not socket:
        raise ConfigError(f"the {scheme}:// store URL names no host; it looks like {FORMS}")
    mode = options.get("sslmode", "verify-full" if "sslrootcert" in options else "disable")
    if mode not in SSL_MODES:
        raise ConfigError(f"sslmode is {mode[:40]!r}; it is one of {', '.join(SSL_MODES)}")
    user = unquote(parts.username or "")
    given = unquote(parts.password) if parts.password is not None else None
    if given is None and user and password is not None:
        given = password
    return StoreUrl(
        dialect, database, host, port or PORTS[dialect], user, given or "", socket, mode, options.get("sslrootcert", "")
    )


_HINT = (
    "percent-encode the characters @ : / ? # % of user and password (@ is %40, : is %3A, / is %2F, ? is %3F, # is %23,"
    " % is %25), or use password_file"
)


def _sqlite(text: str) -> StoreUrl:
    rest = text.partition("://")[2]
    if not rest.startswith("/"):
        raise ConfigError("a SQLite store is sqlite:///relative/path or sqlite:////absolute/path")
    path, _, query = rest[1:].partition("?")
    _options("sqlite", query, set())
    path = unquote(path)
    if not path or path.startswith(":memory:") or path.endswith("/"):
        raise ConfigError("a SQLite store is a file: sqlite:///relative/path or sqlite:////absolute/path")
    return StoreUrl("sqlite", path)


def _options(scheme: str, query: str, known: set[str]) -> dict[str, str]:
    options: dict[str, Any] = dict(parse_qsl(query, keep_blank_values=True))
    for name in options:
        if name not in known:
            there = f"there are {', '.join(sorted(known))}" if known else "there are none"
            raise ConfigError(f"{name[:40]!r} is no option of a {scheme}:// store URL; {there}")
    return options
