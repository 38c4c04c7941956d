"""What a store URL means, and that no message repeats a password."""

import builtins
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from goloves.errors import ConfigError
from goloves.stores import make_store, make_stores
from goloves.stores.urls import StoreUrl, parse_store_url


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("sqlite:///data/goloves.db", StoreUrl("sqlite", "data/goloves.db")),
        ("sqlite:////var/lib/a%20b.db", StoreUrl("sqlite", "/var/lib/a b.db")),
        ("mysql://u:p@h/d", StoreUrl("mysql", "d", "h", 3306, "u", "p")),
        ("MySQL://u:p@h:3307/d", StoreUrl("mysql", "d", "h", 3307, "u", "p")),
        ("mariadb://u@h/d", StoreUrl("mysql", "d", "h", 3306, "u", "")),
        ("postgresql://u:p%40s%3As%2Fw%C3%B6%25@h/d", StoreUrl("postgresql", "d", "h", 5432, "u", "p@s:s/wö%")),
        ("postgres://u:p@[::1]:5433/d", StoreUrl("postgresql", "d", "::1", 5433, "u", "p")),
        ("mysql://u:a@b@h/d", StoreUrl("mysql", "d", "h", 3306, "u", "a@b")),
        ("mysql://u@/d?unix_socket=/run/my.sock", StoreUrl("mysql", "d", "", 3306, "u", "", "/run/my.sock")),
        ("postgresql://u@/d?host=/run/pg", StoreUrl("postgresql", "d", "", 5432, "u", "", "/run/pg")),
        (
            "postgresql://u@h/d?sslmode=require",
            StoreUrl("postgresql", "d", "h", 5432, "u", "", "", "require"),
        ),
        (
            "mysql://u@h/d?sslrootcert=/ca.pem",
            StoreUrl("mysql", "d", "h", 3306, "u", "", "", "verify-full", "/ca.pem"),
        ),
    ],
)
def test_a_url_is_understood(text: str, parsed: StoreUrl) -> None:
    assert parse_store_url(text) == parsed


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("goloves.db", "has no scheme.*sqlite:///path"),
        ("oracle://u:hush@h/d", "no 'oracle' stores.*mysql://"),
        ("etcd://h1,h2/hush", "etcd:// stores come in a later version"),
        ("zookeeper://h1,h2/hush", "zookeeper:// stores come in a later version"),
        ("sqlite://hush/relative", "sqlite:///relative/path"),
        ("sqlite:///", "is a file"),
        ("sqlite:///:memory:", "is a file"),
        ("sqlite:///x.db?hush=1&mode=ro", "no option of a sqlite:// store URL; there are none"),
        ("mysql://u:hush@h", "names no database"),
        ("mysql://u:hush@h/", "names no database"),
        ("mysql://u:hush@/d", "names no host"),
        ("mysql://u:hush@h:port/d", "percent-encode"),
        ("mysql://u:hu/sh@h/d", "percent-encode"),
        ("mysql://u:12/hush@h/d", "percent-encode"),
        ("mysql://u:hu#sh@h/d", "percent-encode|names no"),
        ("mysql://u:hu?sh@h/d", "percent-encode|names no|no option"),
        ("mysql://u:[hush@h/d", "percent-encode"),
        ("mysql://u:hush@h/d?charset=latin1", "'charset' is no option.*unix_socket"),
        ("postgresql://u:hush@h/d?sslmode=prefer", "'prefer'; it is one of disable, require, verify-ca, verify-full"),
    ],
)
def test_a_url_that_is_not_understood_is_refused_without_repeating_its_password(text: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match) as caught:
        make_store(text)
    if "hu?sh" not in text:
        assert "hush" not in str(caught.value) or "hush=1" in text


def test_a_password_from_elsewhere_is_used_where_the_url_names_a_user_and_no_password() -> None:
    assert parse_store_url("mysql://u@h/d", password="p").password == "p"
    assert parse_store_url("mysql://u:own@h/d", password="p").password == "own"
    assert parse_store_url("mysql://u:@h/d", password="p").password == ""
    assert parse_store_url("mysql://h/d", password="p").password == ""


def test_nothing_that_is_shown_holds_a_password() -> None:
    url = parse_store_url("postgresql://user:hush@h/d")
    store = make_store("postgresql://user:hush@h/d")
    assert "hush" not in f"{url!r} {url} {url.address} {store!r} {store} {vars(store)!r}"
    assert url.address == "postgresql://h:5432/d"
    assert parse_store_url("mysql://u:p@[::1]/d").address == "mysql://[::1]:3306/d"
    assert parse_store_url("mysql://u:p@/d?unix_socket=/run/m").address == "mysql:///run/m/d"
    assert parse_store_url("sqlite:///a.db").address == f"sqlite:///{Path.cwd() / 'a.db'}"


def test_encryption_is_as_strict_as_it_was_asked_for(tmp_path: Path) -> None:
    def context(query: str) -> ssl.SSLContext | None:
        return parse_store_url(f"postgresql://u@h/d{query}").ssl_context()

    assert context("") is None
    require, ca, full = context("?sslmode=require"), context("?sslmode=verify-ca"), context("?sslmode=verify-full")
    assert require is not None
    assert ca is not None
    assert full is not None
    assert (require.verify_mode, require.check_hostname) == (ssl.CERT_NONE, False)
    assert (ca.verify_mode, ca.check_hostname) == (ssl.CERT_REQUIRED, False)
    assert (full.verify_mode, full.check_hostname) == (ssl.CERT_REQUIRED, True)
    with pytest.raises(ConfigError, match="sslrootcert can't be read"):
        context(f"?sslrootcert={tmp_path / 'missing.pem'}")


@pytest.mark.parametrize(
    ("url", "module", "extra"),
    [
        ("mysql://u@h/d", "asyncmy", "mysql"),
        ("postgresql://u@h/d", "asyncpg", "postgres"),
        ("sqlite:///x.db", "aiosqlite", "server"),
        ("sqlite:///x.db", "goloves.stores.sql", "server"),
    ],
)
def test_a_driver_that_is_missing_is_named_with_its_extra(
    url: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_import: Callable[..., Any] = builtins.__import__

    def without(name: str, *arguments: Any, **named: Any) -> Any:
        if name == module:
            raise ImportError(f"No module named {name!r}")
        return real_import(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setattr("importlib.import_module", lambda name: without(name))
    with pytest.raises(ConfigError, match=rf"pip install 'goloves\[{extra}\]'.*{module}"):
        make_store(url)


def test_one_url_for_ranges_and_windows_is_one_store(tmp_path: Path) -> None:
    one, two = f"sqlite:///{tmp_path}/1.db", f"sqlite:///{tmp_path}/2.db"
    segments, windows = make_stores(one, one)
    assert segments is windows
    segments, windows = make_stores(one, two)
    assert segments is not windows
