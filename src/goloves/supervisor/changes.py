"""What a changed configuration asks for: nothing, a word to the nodes, new nodes, or a new start."""

from dataclasses import dataclass, field

from goloves.config import Config
from goloves.config.rules import values
from goloves.config.schema import Key, settings, show
from goloves.stores.urls import parse_store_url

LIVE: tuple[Key, ...] = (("log",),)
"""What running processes take over. The certificate's files are read again as well."""

RESTART: tuple[Key, ...] = (
    ("server", "data_dir"),
    ("http", "listen"),
    ("grpc", "listen"),
    ("admin",),
)
"""What stays as it is until the service is stopped and started."""

STORES: tuple[Key, ...] = (("stores", "url"), ("stores", "segments"), ("stores", "windows"))
"""Where the stores are: with nodes on two at once, both would hand out the same numbers. Users and passwords may
change while nodes are replaced."""


@dataclass
class Changes:
    """Settings that differ, by what makes them count; each as a person writes it."""

    live: list[str] = field(default_factory=list)
    rolling: list[str] = field(default_factory=list)
    restart: list[str] = field(default_factory=list)


def changes(old: Config, new: Config) -> Changes:
    """Compare two configurations."""
    found = Changes()
    for setting in settings():
        before, after = dict(values(old, setting)), dict(values(new, setting))
        for key in {**before, **after}:
            if key in before and key in after and before[key] == after[key]:
                continue
            if (
                _below(key, RESTART)
                or (key in STORES and stores_of(old) != stores_of(new))
                or (setting == ("server", "nodes") and 0 in (before[key], after[key]))
            ):
                found.restart.append(show(key))
            elif _below(key, LIVE):
                found.live.append(show(key))
            else:
                found.rolling.append(show(key))
    return found


def stores_of(config: Config) -> list[str]:
    """Say where the stores are, without users and passwords."""
    return [parse_store_url(url).address for url in (config.segments_url, config.windows_url)]


def _below(key: Key, places: tuple[Key, ...]) -> bool:
    return any(key[: len(place)] == place for place in places)
