"""The service manager's protocol (`sd_notify`, see systemd's manual): a few words to a datagram socket.

It asks for nothing and waits for nothing: without a service manager, or with one that does not listen, nothing happens.
"""

import contextlib
import os
import socket
import time
from collections.abc import Mapping


class Notifier:
    """Tells the service manager how the service is, if there is one that asked."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        self.watchdog: float | None = None
        """Seconds within which a sign of life is expected; None if none is."""
        usec, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
        if usec.isdigit() and int(usec) > 0 and pid in ("", str(os.getpid())):
            self.watchdog = int(usec) / 1e6

    def say(self, **words: str) -> None:
        """Send what is said, as `READY="1"`."""
        if not self._address:
            return
        # A name that begins with @ lies in Linux's abstract name space, where it begins with a zero byte.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        text = "\n".join(f"{name}={value}" for name, value in words.items())
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto(text.encode(), address)

    def ready(self, status: str) -> None:
        """Say that the service serves."""
        self.say(READY="1", STATUS=status, MAINPID=str(os.getpid()))

    def status(self, status: str) -> None:
        """Say in a few words how it is."""
        self.say(STATUS=status)

    def reloading(self) -> None:
        """Say that the configuration is being read again; `ready` ends it."""
        self.say(RELOADING="1", MONOTONIC_USEC=str(time.monotonic_ns() // 1000))

    def stopping(self) -> None:
        """Say that it stops."""
        self.say(STOPPING="1", STATUS="stopping")

    def due(self, otherwise: float) -> float:
        """Give the seconds to the next sign of life: half of what is allowed, if that is less than `otherwise`."""
        return otherwise if self.watchdog is None else min(otherwise, self.watchdog / 2)

    def main_process(self) -> None:
        """Say that this process is the service's main one from now on."""
        self.say(MAINPID=str(os.getpid()))

    def alive(self) -> None:
        """Give a sign of life, if one is expected."""
        if self.watchdog is not None:
            self.say(WATCHDOG="1")
