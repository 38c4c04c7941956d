"""Small disks of a test's own, in memory, which can be filled up and made read-only."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from databases import Server

MISSING = "no file system can be mounted here: that takes root, and in a container the capability SYS_ADMIN"

PIECE = 4096


class Disk:
    """A mounted file system of a given size."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._filler = place / "filler"

    def fill(self) -> int:
        """Leave no room; gives the bytes that it took."""
        with self._filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"\0" * PIECE)
        return self._filler.stat().st_size

    def make_room(self) -> None:
        """Give the room back that `fill` took."""
        self._filler.unlink()

    def read_only(self, on: bool) -> None:
        """Let nothing be written; no file may be open for writing."""
        subprocess.run(["mount", "-o", "remount,ro" if on else "remount,rw", str(self.place)], check=True)


@contextlib.contextmanager
def mounted(megabytes: int) -> Iterator[Disk]:
    """Mount a disk of this size; skip where that is not allowed."""
    place = Path(tempfile.mkdtemp(prefix="goloves-disk-"))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "tmpfs", str(place)]
    try:
        if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
            pytest.skip(MISSING)
        try:
            yield Disk(place)
        finally:
            subprocess.run(["umount", "--lazy", str(place)], check=True)
    finally:
        place.rmdir()


@contextlib.contextmanager
def server_on(disk: Disk, kind: type[Server]) -> Iterator[Server]:
    """Start a database server whose data lie on this disk."""
    missing = kind.missing()
    if missing and os.environ.get("CI"):
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)
    server = kind()
    shutil.rmtree(server.directory)
    server.directory = disk.place / "server"
    server.directory.mkdir()
    server.data = server.directory / "data"
    server.log = server.directory / "log"
    try:
        server.create()
        yield server
    finally:
        server.remove()
