"""The first words of `goloves serve`: where it listens, which store it uses, what to try next."""

import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import click

from goloves import __version__
from goloves.cli.opening import address_of_store
from goloves.config import Config
from goloves.config.addresses import Address
from goloves.config.settings import StoresConfig
from goloves.logger import get_logger
from goloves.server.assembly import FirstWords

log = get_logger("goloves.serve")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a service listens."""

    http: list[Address]
    grpc: list[Address]
    admin: list[Address]


def say_first_words(config: Config, place: Place, words: FirstWords, *, new: bool) -> None:
    """Say it: as text, or as an event where the log is JSON. `new`: whether the store was made just now."""
    store = address_of_store(config.segments_url)
    windows = address_of_store(config.windows_url)
    if config.log.format == "json":
        log.info(
            "serving",
            http=[_url(address, config) for address in place.http],
            grpc=[str(address) for address in place.grpc],
            admin=[str(address) for address in place.admin],
            store=store,
            windows=windows,
            waits=words.waits,
        )
        return
    lines = [f"Goloves {__version__} listens on {', '.join(_url(address, config) for address in place.http)}"]
    if place.grpc:
        lines.append(f"  gRPC     {', '.join(map(str, place.grpc))}{' over TLS' if config.tls.certificate else ''}")
    lines.append(f"  store    {store}{' (new)' if new else ''}{'' if windows == store else f', windows {windows}'}")
    lines += [f"  health   {address if address.path else f'http://{address}'}" for address in place.admin]
    lines += [f"  waits    {reason}" for reason in words.waits]
    lines += ["  try      " + "\n           ".join(_suggestions(config, words.tag, place.http[0]))]
    lines += ["  stop     Ctrl-C"]
    click.echo("\n".join(lines), err=True)


def _suggestions(config: Config, tag: str | None, address: Address) -> list[str]:
    curl = f"curl {_client_url(address, config)}"
    if address.path:
        curl = f"curl --unix-socket {address.path} {_scheme(config)}://localhost"
    create = f"{_command()} tag create order{'' if config.stores == StoresConfig() else ' --store …'}"
    if tag is None:
        return [create]
    name = quote(tag, safe="")
    return [
        f"{curl}/api/segment/get/{name}",
        f"{curl}/api/snowflake/get/anything",
        f"{curl.replace('curl', 'curl -X POST', 1)}/v1/segments/{name}/ids",
        create,
    ]


def _url(address: Address, config: Config) -> str:
    return str(address) if address.path else f"{_scheme(config)}://{address}"


def _scheme(config: Config) -> str:
    return "http" if config.tls.certificate is None else "https"


def _client_url(address: Address, config: Config) -> str:
    """Give what a client on this machine asks; nobody can connect to "all addresses"."""
    if address.is_wildcard:
        address = Address("::1" if ":" in address.host else "127.0.0.1", address.port)
    return f"{_scheme(config)}://{address}"


def _command() -> str:
    """Give the command as it can be typed here: `goloves` if the shell finds it, else as it was started."""
    started = sys.argv[0]
    if shutil.which("goloves") or Path(started).name != "goloves":
        return "goloves"
    return shlex.quote(started)
