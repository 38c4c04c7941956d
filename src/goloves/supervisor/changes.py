"""What a changed configuration asks for: nothing, a word to the nodes, new nodes, or a new start."""

from dataclasses import dataclass, field

from goloves.config import Config
from goloves.config.rules import values
from goloves.config.schema import Key, settings, show

LIVE: tuple[Key, ...] = (("log",),)
"""What running processes take over. The certificate's files are read again as well."""

RESTART: tuple[Key, ...] = (
    ("server", "data_dir"),
    ("http", "listen"),
    ("grpc", "listen"),
    ("admin",),
    # With nodes on two stores at once, both would hand out the same numbers.
    ("stores", "url"),
    ("stores", "segments"),
    ("stores", "windows"),
)
"""What stays as it is until the service is stopped and started."""


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
            if _below(key, RESTART) or (setting == ("server", "nodes") and 0 in (before[key], after[key])):
                found.restart.append(show(key))
            elif _below(key, LIVE):
                found.live.append(show(key))
            else:
                found.rolling.append(show(key))
    return found


def _below(key: Key, places: tuple[Key, ...]) -> bool:
    return any(key[: len(place)] == place for place in places)
