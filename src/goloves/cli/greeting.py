"""The first words of `goloves serve`: where it listens, which store it uses, what to try next."""

import asyncio
import shlex
import shutil
import sys
from pathlib import Path
from urllib.parse import quote

import click
import structlog

from goloves import __version__
from goloves.cli.opening import address_of_store
from goloves.config import Config
from goloves.config.addresses import Address
from goloves.config.settings import StoresConfig
from goloves.errors import GolovesError
from goloves.service import IdService
from goloves.stores.base import SegmentStore

SETTLING = 1.0
"""Seconds that the first words wait for the node to be ready, so that what they suggest works: with a store that
answers it takes a tenth of that, and whoever started it reads something within two seconds in any case."""

DEFAULT_TAG = "default"
"""The tag that a schema of Goloves' own brings."""

log = structlog.get_logger("goloves.serve")


async def greet(
    config: Config,
    addresses: list[Address],
    grpc_addresses: list[Address],
    service: IdService,
    segments: SegmentStore,
    started: asyncio.Event,
    *,
    new: bool,
) -> None:
    """Wait a moment for the node to be ready, then say it: as text, or as an event where the log is JSON."""
    settled = asyncio.get_running_loop().time() + SETTLING
    # Readiness is put together from many places when it is asked for: there is nothing to wait on.
    while (reasons := _reasons(service, started)) and asyncio.get_running_loop().time() < settled:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    store = address_of_store(config.segments_url)
    windows = address_of_store(config.windows_url)
    if config.log.format == "json":
        log.info(
            "serving",
            http=[_url(address, config) for address in addresses],
            grpc=[str(address) for address in grpc_addresses],
            store=store,
            windows=windows,
            waits=reasons,
        )
        return
    lines = [f"Goloves {__version__} listens on {', '.join(_url(address, config) for address in addresses)}"]
    if grpc_addresses:
        lines.append(f"  gRPC     {', '.join(map(str, grpc_addresses))}{' over TLS' if config.tls.certificate else ''}")
    lines.append(f"  store    {store}{' (new)' if new else ''}{'' if windows == store else f', windows {windows}'}")
    lines += [f"  waits    {reason}" for reason in reasons]
    lines += ["  try      " + "\n           ".join(await _suggestions(config, segments, addresses[0]))]
    lines += ["  stop     Ctrl-C"]
    click.echo("\n".join(lines), err=True)


def _reasons(service: IdService, started: asyncio.Event) -> list[str]:
    return service.readiness() if started.is_set() else ["the store has not answered yet"]


async def _suggestions(config: Config, segments: SegmentStore, address: Address) -> list[str]:
    tag = await _some_tag(segments)
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


async def _some_tag(segments: SegmentStore) -> str | None:
    """Find a tag to try: `default`, or any; None if there is none. A store that can't say likely has `default`."""
    try:
        if await segments.read_tags([DEFAULT_TAG]):
            return DEFAULT_TAG
        return next((tag.name for tag in await segments.list_tags(most=1)), None)
    except GolovesError:
        return DEFAULT_TAG


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
