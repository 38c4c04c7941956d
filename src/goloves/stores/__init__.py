"""Stores: where grants come from. Each keeps the contracts of `base.py`; a store's URL says which it is.

`make_store` imports only the driver that its URL asks for, and connects nowhere: `open` does.
"""

from typing import TYPE_CHECKING

from goloves.errors import ConfigError
from goloves.stores.urls import parse_store_url

if TYPE_CHECKING:
    from goloves.stores.sql import Options, SqlStore


def make_store(url: str, options: "Options | None" = None, *, password: str | None = None) -> "SqlStore":
    """Make the store that a URL names. `password` is used where the URL names a user and no password.

    Raises ConfigError: an unknown or later scheme, a URL that can't be read, a missing driver.
    """
    parsed = parse_store_url(url, password=password)
    try:
        from goloves.stores.sql import Options, SqlStore
    except ImportError as error:
        raise ConfigError(f"a store needs the server's parts: pip install 'goloves[server]' ({error})") from error
    return SqlStore(parsed, options or Options())


def make_stores(
    segments: str, windows: str, options: "Options | None" = None, *, password: str | None = None
) -> "tuple[SqlStore, SqlStore]":
    """Make the stores of ranges and of windows; one URL for both gives one store with one set of connections."""
    store = make_store(segments, options, password=password)
    if windows == segments:
        return store, store
    return store, make_store(windows, options, password=password)
