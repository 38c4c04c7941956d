"""TLS for the listeners: contexts made of the certificate's files, and made anew when those change.

Rules:
1. TLS 1.2 and newer, with ciphers that HTTP/2 allows (RFC 9113 §9.2); the protocol is chosen by ALPN.
2. A changed file counts once certificate and key fit together: tools write one after the other. Until then, and if
   what is there can't be used, the old ones serve on, with a warning.
3. What is renewed serves new connections; those that exist keep what they have. A changed file makes new contexts and
   changes no old one: OpenSSL keeps one certificate for each type of key and all authorities that it ever loaded, so
   that what was replaced or taken out would be used on. Sessions of old contexts are not resumed either.
"""

import ssl
from pathlib import Path

from goloves.errors import ConfigError
from goloves.logger import get_logger

HTTP_PROTOCOLS = ("http/1.1",)
GRPC_PROTOCOLS = ("h2",)

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2: forward secret and authenticated, so that none is on HTTP/2's list of refused ones. TLS 1.3 has its
own."""

log = get_logger("goloves.tls")


class Certificates:
    """The contexts of a node's listeners. `look` makes them anew if need be; call it every few seconds."""

    def __init__(
        self,
        certificate: Path,
        key: Path,
        *,
        client_authorities: Path | None = None,
        client_required: bool = True,
    ) -> None:
        """`certificate`: PEM file with the chain; `key`: PEM file without a password; may be the same file.

        `client_authorities`: PEM file of those whose client certificates are accepted; with `client_required` clients
        need one.
        Raises ConfigError if the files can't be used.
        """
        self._certificate = certificate
        self._key = key
        self._authorities = client_authorities
        self._client_required = client_required
        self._contexts: dict[tuple[str, ...], ssl.SSLContext] = {}
        self._seen = self._stamps()
        self._said: object = None
        self.renewals = 0
        """How often changed files were taken over."""
        try:
            self.context(GRPC_PROTOCOLS)
        except (OSError, ssl.SSLError, ValueError) as error:
            raise ConfigError(f"[tls]: {self._why(error)}") from None

    def context(self, protocols: tuple[str, ...]) -> ssl.SSLContext:
        """Give the present context for listeners that speak these protocols (names of ALPN).

        Ask anew for each connection: it is another one after a renewal.
        """
        found = self._contexts.get(protocols)
        if found is None:
            found = self._contexts[protocols] = self._make(protocols)
        return found

    def look(self) -> None:
        """Take over files that have changed."""
        stamps = self._stamps()
        if stamps == self._seen:
            return
        try:
            self._contexts = {protocols: self._make(protocols) for protocols in self._contexts}
        except (OSError, ssl.SSLError, ValueError) as error:
            if self._said != stamps:
                self._said = stamps
                log.warning("changed certificate files can't be used; the old ones serve on", reason=self._why(error))
            return
        self._seen = stamps
        self.renewals += 1
        log.info("certificates renewed", certificate=str(self._certificate))

    def _make(self, protocols: tuple[str, ...]) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(CIPHERS)
        context.set_alpn_protocols(list(protocols))
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
        context.load_cert_chain(self._certificate, self._key, password=_no_password)
        if self._authorities is not None:
            context.load_verify_locations(self._authorities)
            context.verify_mode = ssl.CERT_REQUIRED if self._client_required else ssl.CERT_OPTIONAL
        return context

    def _files(self) -> list[Path]:
        return [path for path in (self._certificate, self._key, self._authorities) if path is not None]

    def _stamps(self) -> tuple[object, ...]:
        """Give what changes when a file does, symbolic links followed: secrets are swapped by them."""
        stamps: list[object] = []
        for path in self._files():
            try:
                found = path.stat()
                stamps.append((found.st_ino, found.st_mtime_ns, found.st_size))
            except OSError as error:
                stamps.append(error.errno)
        return tuple(stamps)

    def _why(self, error: Exception) -> str:
        for path in self._files():
            try:
                path.read_bytes()
            except OSError as missing:
                return f"{path} can't be read: {missing.strerror}"
        if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
            return f"the key {self._key} does not belong to the certificate {self._certificate}"
        what = " and ".join(dict.fromkeys(str(path) for path in self._files()))
        return f"{what} can't be used ({error}); they are PEM files, the key without a password"


def _no_password() -> str:
    raise ValueError("the key is encrypted")
