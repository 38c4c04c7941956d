"""Who may read what the control plane tells: everybody who reaches it, or who shows a token.

Rules:
1. The token stands in a file and nowhere else: no setting, no log line and no answer holds it.
2. The file is read again for each check, so that a token is replaced by replacing the file. What can't be read lets
   nobody in that was not let in before.
3. Tokens are compared in a time that tells nothing of how much of them was right.
"""

import hmac
from pathlib import Path

from goloves.errors import ConfigError
from goloves.logger import get_logger

LEAST = 16
"""Characters of a token: 64 bits, written in hexadecimal, are not guessed over a network."""

log = get_logger("goloves.admin")


class Access:
    """Judges the `Authorization` of requests."""

    def __init__(self, file: Path | None) -> None:
        """`file` holds the token, white space around it aside; None: nobody needs one. ConfigError if it can't be."""
        self._file = file
        self._token = b""
        if file is not None:
            self._token = _read(file)

    @property
    def is_open(self) -> bool:
        """Whether nobody needs a token."""
        return self._file is None

    def allows(self, authorization: str | None) -> bool:
        """Whether a request with this header (RFC 6750 §2.1) may see everything."""
        if self._file is None:
            return True
        try:
            self._token = _read(self._file)
        except ConfigError as error:
            log.error("the token can't be read again: the one before counts", reason=error.message)
        scheme, _, shown = (authorization or "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(shown.strip().encode(), self._token)


def _read(file: Path) -> bytes:
    # The name is not repeated: people put the secret itself where its file's name belongs.
    try:
        token = file.read_text("utf-8").strip()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(f"the file of admin.token_file can't be read: {reason}") from None
    if len(token) < LEAST:
        raise ConfigError(f"the token in the file of admin.token_file is too short: at least {LEAST} characters")
    return token.encode()
