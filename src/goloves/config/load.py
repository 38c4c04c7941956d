"""Sources put together: the one way from a file, the environment and flags to a `Config`.

All problems are gathered and raised together, so that a person mends a configuration once and not line by line.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from goloves.config.problems import ConfigProblems, Problem
from goloves.config.rules import findings, values
from goloves.config.schema import Key, find, settings, show, show_value, suggest, type_name
from goloves.config.settings import DEFAULT_SPACE, FEW_WORKERS, SHORT_WINDOW, Config, SpaceConfig
from goloves.config.sources import DEFAULT, Entries, Entry, read_environment, read_file, read_flags
from goloves.errors import ConfigError

STORE_FIELDS = ("url", "segments", "windows")
"""The settings of [stores] that hold a URL; each has a sibling with `_file`."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration that can be used, and where it comes from."""

    config: Config
    sources: dict[Key, str] = field(default_factory=dict)
    """Where each setting that is not at its default was set."""
    notes: tuple[str, ...] = ()
    """What a person may want to know, though nothing is wrong."""


def load(file: Path | None, environ: Mapping[str, str], flags: Mapping[Key, Any]) -> Loaded:
    """Put the sources together: defaults, `file`, GOLOVES_ variables of `environ`, flags by the setting that they set.

    Raises ConfigProblems with everything that is wrong.
    """
    from_file = read_file(file) if file else Entries()
    names: dict[Key, set[str]] = {("spaces",): {DEFAULT_SPACE}}
    for key in [*from_file.values, *from_file.places]:
        for depth in range(1, len(key)):
            above = find(key[:depth])
            if above is not None and above.kind == "names":
                names.setdefault(key[:depth], set()).add(key[depth])
    layers = [from_file, read_environment(environ, names), read_flags(flags)]
    return _Loading(layers).finish()


class _Loading:
    def __init__(self, layers: list[Entries]) -> None:
        self.entries: dict[Key, Entry] = {}
        self.places: dict[Key, str] = {}
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        for layer in layers:
            self.entries |= layer.values
            self.places |= layer.places
            self.problems += layer.problems
            self.notes += layer.notes

    def finish(self) -> Loaded:
        wrong = self._convert()
        self._stores()
        config = self._build()
        for keys, message in findings(config):
            if not any(key in wrong for key in keys):
                self.problems.append(Problem(self._source(keys), message))
        if self.problems:
            raise ConfigProblems(self.problems)
        sources = {key: entry.source for key, entry in self.entries.items() if entry.rank > DEFAULT}
        return Loaded(config, sources, tuple(self.notes))

    def _source(self, keys: tuple[Key, ...]) -> str:
        for key in keys:
            if key in self.entries:
                return self.entries[key].source
        return next((self.places[key] for key in keys if key in self.places), "")

    def _convert(self) -> set[Key]:
        """Turn each value into its type; give the keys of those that can't be."""
        wrong: set[Key] = set()
        for key, entry in self.entries.items():
            node = find(key)
            assert node is not None
            value: Any = entry.value
            if entry.text and type_name(node.type) == "a list of texts":
                value = [part.strip() for part in value.split(",")]
            try:
                value = msgspec.convert(value, node.type, strict=not entry.text)
            except msgspec.ValidationError:
                wrong.add(key)
                expected = type_name(node.type)
                hint = suggest(value, expected.split('"')[1::2]) if isinstance(value, str) else ""
                message = f"{show(key)} is {show_value(entry.value)}; it has to be {expected}{hint}"
                self.problems.append(Problem(entry.source, message))
                continue
            self.entries[key] = Entry(value, entry.source, entry.rank)
        for key in wrong:
            self.entries[key] = Entry(None, self.entries[key].source, DEFAULT)
        return wrong

    def _rank(self, name: str) -> int:
        return max(self._entry(name).rank, self._entry(f"{name}_file").rank)

    def _entry(self, name: str) -> Entry:
        return self.entries.get(("stores", name), Entry(None, "", DEFAULT))

    def _stores(self) -> None:
        """Settle which URL of [stores] counts, and read those that stand in files."""
        for name in ("segments", "windows"):
            if DEFAULT < self._rank(name) < self._rank("url"):
                self.notes.append(
                    f"{self._entry('url').source or self._entry('url_file').source} replaces stores.{name}"
                )
                self.entries.pop(("stores", name), None)
                self.entries.pop(("stores", f"{name}_file"), None)
        for name in STORE_FIELDS:
            url, file = self._entry(name), self._entry(f"{name}_file")
            if file.rank == DEFAULT:
                continue
            if url.rank == file.rank:
                message = f"stores.{name} and stores.{name}_file ({url.source}) are both set; keep one of the two"
                self.problems.append(Problem(file.source, message))
            elif url.rank > file.rank:
                del self.entries["stores", f"{name}_file"]
            else:
                secret = self._secret(f"{name}_file", file)
                if secret:
                    source = f"{file.source} (from {file.value})"
                    self.entries["stores", name] = Entry(secret, source, file.rank)
        if self._entry("password_file").rank > DEFAULT:
            self._password(self._entry("password_file"))

    def _secret(self, name: str, entry: Entry) -> str:
        """Read what a file holds, without the white space around it; a problem and "" if there is nothing.

        The problem doesn't repeat the name: people put the secret itself where its file's name belongs.
        """
        try:
            secret = Path(entry.value).read_text("utf-8").strip()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            self.problems.append(Problem(entry.source, f"the file of stores.{name} can't be read: {reason}"))
            return ""
        if not secret:
            self.problems.append(Problem(entry.source, f"the file of stores.{name} is empty"))
        return secret

    def _password(self, entry: Entry) -> None:
        secret = self._secret("password_file", entry)
        used = False
        for name in STORE_FIELDS:
            url = self._entry(name)
            # A URL from a later place is the whole store: what an earlier one said of its password is not meant for it.
            used = used or url.rank > entry.rank
            if url.rank == DEFAULT:
                continue
            scheme, separator, rest = url.value.partition("://")
            user, at, server = rest.partition("@")
            if separator and at and user and ":" not in user and "/" not in user:
                complete = f"{scheme}://{user}:{quote(secret, safe='')}@{server}"
                self.entries["stores", name] = Entry(complete, url.source, url.rank)
                used = True
        if secret and not used:
            message = "stores.password_file is set, but no store URL names a user without a password; write user@host"
            self.problems.append(Problem(entry.source, message))

    def _build(self) -> Config:
        sections: dict[str, Any] = {}
        for key, entry in self.entries.items():
            if entry.rank == DEFAULT:
                continue
            place = sections
            for part in key[:-1]:
                place = place.setdefault(part, {})
            place[key[-1]] = entry.value
        spaces = sections.setdefault("spaces", {})
        for key in self.places:
            if len(key) == 2 and key[0] == "spaces":
                spaces.setdefault(key[1], {})
        spaces.setdefault(DEFAULT_SPACE, {})
        for space in spaces.values():
            self._shorten(space)
        return msgspec.convert(sections, Config)

    def _shorten(self, space: dict[str, Any]) -> None:
        """Give a space of few or static worker ids its short window, unless one is set (W6)."""
        if "window" in space:
            return
        if space.get("worker") is not None:
            space["window"] = SHORT_WINDOW
            return
        try:
            chosen = msgspec.convert(space, SpaceConfig)
            workers = chosen.worker_ids() or range(chosen.layout().workers)
        except ConfigError:
            return
        if len(workers) < FEW_WORKERS:
            space["window"] = SHORT_WINDOW


def effective(loaded: Loaded) -> list[tuple[Key, Any, str]]:
    """Give each setting with its value and source ("default" if nobody set it), in the order of the reference."""
    rows: list[tuple[Key, Any, str]] = []
    for key in settings():
        for actual, value in values(loaded.config, key):
            rows.append((actual, value, loaded.sources.get(actual, "default")))
    return rows
