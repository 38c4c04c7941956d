"""TLS for the listeners: versions, ALPN, client certificates, renewal."""

import contextlib
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from goloves.errors import ConfigError
from goloves.server.grpc.limits import GrpcLimits
from goloves.server.tls import GRPC_PROTOCOLS, HTTP_PROTOCOLS, Certificates
from server.grpc.certificates import Pair, self_signed
from server.grpc.echo import Echo, Stub, ask
from server.grpc.live import PATIENCE, LiveGrpc
from server.grpc.raw import PREFACE, SETTINGS, WINDOW_UPDATE, RawClient, call_fields, frame, prefixed
from server.live import LiveNode


@pytest.fixture(scope="module")
def pair() -> Pair:
    return self_signed()


@pytest.fixture
def files(pair: Pair, tmp_path: Path) -> tuple[Path, Path]:
    return pair.write(tmp_path, "server")


@pytest.fixture
def server(files: tuple[Path, Path]) -> Iterator[LiveGrpc]:
    with LiveGrpc([Echo().service()], tls=Certificates(*files)) as server:
        yield server


def connect(port: int, adjust: Callable[[ssl.SSLContext], None] = lambda context: None) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    adjust(context)
    plain = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    try:
        return context.wrap_socket(plain)
    except BaseException:
        plain.close()
        raise


def serial(port: int) -> bytes | None:
    with connect(port) as made:
        return made.getpeercert(binary_form=True)


def test_grpcio_calls_over_tls(server: LiveGrpc, pair: Pair) -> None:
    credentials = grpc.ssl_channel_credentials(pair.certificate)
    with grpc.secure_channel(f"localhost:{server.port}", credentials) as channel:
        stub = Stub(channel)
        assert stub.once(ask("secret"), timeout=PATIENCE).text == "secret"
        body = b"x" * 1_000_000
        answers = stub.spread(ask(body=body[:60_000], times=50), timeout=PATIENCE)
        assert sum(len(answer.body) for answer in answers) == 50 * 60_000


def test_the_protocol_is_chosen_by_alpn(server: LiveGrpc) -> None:
    with connect(server.port) as made:
        assert made.selected_alpn_protocol() == "h2"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("offered", [["http/1.1"], ["spdy/3", "h2c"], []], ids=["HTTP/1.1", "others", "nothing"])
def test_a_client_that_does_not_offer_http2_is_closed_and_counted(
    server: LiveGrpc, offered: list[str], version: ssl.TLSVersion
) -> None:
    def offer(context: ssl.SSLContext) -> None:
        context.set_alpn_protocols(offered)
        context.minimum_version = context.maximum_version = version

    with connect(server.port, offer) as made:
        assert made.selected_alpn_protocol() is None
        assert made.recv(1024) == b""
    server.wait_for(lambda: server.shared.counters.cut_wrong == 1 and not server.shared.open)
    # One that begins to speak may meet the end at any moment.
    with connect(server.port, offer) as hasty, contextlib.suppress(ConnectionError, ssl.SSLError):
        hasty.sendall(PREFACE + frame(SETTINGS, 0, 0))
        assert hasty.recv(1024) == b""
    server.wait_for(lambda: server.shared.counters.cut_wrong == 2 and not server.shared.open)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_new_versions_are_spoken_with_ciphers_that_http2_allows(server: LiveGrpc, version: ssl.TLSVersion) -> None:
    def only(context: ssl.SSLContext) -> None:
        context.minimum_version = context.maximum_version = version

    with connect(server.port, only) as made:
        cipher = made.cipher()
        assert cipher is not None
        assert "GCM" in cipher[0] or "CHACHA20" in cipher[0]


@pytest.mark.parametrize("protocols", [GRPC_PROTOCOLS, HTTP_PROTOCOLS])
def test_old_versions_are_not_spoken(files: tuple[Path, Path], protocols: tuple[str, ...]) -> None:
    """No client here can still speak them: the ciphers allow them neither."""
    assert Certificates(*files).context(protocols).minimum_version is ssl.TLSVersion.TLSv1_2


def test_old_ciphers_are_refused(server: LiveGrpc) -> None:
    def old(context: ssl.SSLContext) -> None:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("AES128-SHA")

    with pytest.raises((ssl.SSLError, ConnectionError)):
        connect(server.port, old)


def test_a_client_without_tls_is_let_go(server: LiveGrpc) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as plain:
        plain.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        while plain.recv(1024):
            pass
    assert serial(server.port)


class TestClientCertificates:
    @pytest.fixture
    def client(self) -> Pair:
        return self_signed("client")

    def server(self, files: tuple[Path, Path], client: Pair, directory: Path, *, required: bool) -> LiveGrpc:
        authorities, _ = client.write(directory, "authorities")
        made = Certificates(*files, client_authorities=authorities, client_required=required)
        return LiveGrpc([Echo().service()], tls=made)

    def call(self, port: int, pair: Pair, client: Pair | None) -> str:
        chosen = (client.key, client.certificate) if client else (None, None)
        credentials = grpc.ssl_channel_credentials(pair.certificate, *chosen)
        with grpc.secure_channel(f"localhost:{port}", credentials) as channel:
            return str(Stub(channel).once(ask("hi"), timeout=PATIENCE).text)

    def test_one_of_a_known_authority_is_let_in(
        self, files: tuple[Path, Path], pair: Pair, client: Pair, tmp_path: Path
    ) -> None:
        with self.server(files, client, tmp_path, required=True) as server:
            assert self.call(server.port, pair, client) == "hi"

    def test_none_or_another_is_refused_where_one_is_required(
        self, files: tuple[Path, Path], pair: Pair, client: Pair, tmp_path: Path
    ) -> None:
        with self.server(files, client, tmp_path, required=True) as server:
            for wrong in (None, self_signed("client")):
                with pytest.raises(grpc.RpcError):
                    self.call(server.port, pair, wrong)

    def test_none_is_let_in_where_it_is_optional(
        self, files: tuple[Path, Path], pair: Pair, client: Pair, tmp_path: Path
    ) -> None:
        with self.server(files, client, tmp_path, required=False) as server:
            assert self.call(server.port, pair, None) == "hi"


class TestRenewal:
    def test_changed_files_serve_new_connections(self, tmp_path: Path) -> None:
        made = Certificates(*self_signed().write(tmp_path, "server"))
        with LiveGrpc([Echo().service()], tls=made) as server:
            first = serial(server.port)
            server.call(made.look)
            assert serial(server.port) == first
            self_signed().write(tmp_path, "server")
            server.call(made.look)
            assert made.renewals == 1
            assert serial(server.port) != first

    def test_half_a_renewal_changes_nothing_until_the_other_half_comes(self, tmp_path: Path) -> None:
        certificate, key = self_signed().write(tmp_path, "server")
        made = Certificates(certificate, key)
        with LiveGrpc([Echo().service()], tls=made) as server:
            first = serial(server.port)
            fresh = self_signed()
            certificate.write_bytes(fresh.certificate)
            server.call(made.look)
            assert made.renewals == 0
            assert serial(server.port) == first
            key.write_bytes(fresh.key)
            server.call(made.look)
            assert made.renewals == 1
            assert serial(server.port) != first

    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    def test_a_key_of_another_type_takes_the_place_of_the_old_one(
        self, tmp_path: Path, version: ssl.TLSVersion
    ) -> None:
        def only(context: ssl.SSLContext) -> None:
            context.minimum_version = context.maximum_version = version

        made = Certificates(*self_signed(kind="RSA").write(tmp_path, "server"))
        with LiveGrpc([Echo().service()], tls=made) as server:
            for kind in ("EC", "RSA"):
                fresh = self_signed(kind=kind)
                fresh.write(tmp_path, "server")
                server.call(made.look)
                with connect(server.port, only) as client:
                    got = client.getpeercert(binary_form=True)
                assert got == ssl.PEM_cert_to_DER_cert(fresh.certificate.decode())

    def test_connections_that_exist_go_on(self, tmp_path: Path) -> None:
        made = Certificates(*self_signed().write(tmp_path, "server"))
        with LiveGrpc([Echo().service()], tls=made) as server:
            context = ssl.create_default_context(cafile=str(tmp_path / "server.crt"))
            context.set_alpn_protocols(["h2"])
            with RawClient(server.port, tls=context) as client:
                client.ping()
                self_signed().write(tmp_path, "server")
                server.call(made.look)
                assert client.call("/test.echo.Echo/Once", prefixed(ask("on").SerializeToString())).status == 0

    def test_authorities_that_changed_count_for_new_connections(self, files: tuple[Path, Path], tmp_path: Path) -> None:
        old, new = self_signed("client"), self_signed("client")
        authorities, _ = old.write(tmp_path, "authorities")
        made = Certificates(*files, client_authorities=authorities)

        def is_let_in(port: int, pair: Pair) -> bool:
            shown = pair.write(tmp_path, "client")
            with connect(port, lambda context: context.load_cert_chain(*shown)) as client:
                try:
                    client.sendall(PREFACE)
                    return bool(client.recv(1))
                except OSError:
                    return False

        with LiveGrpc([Echo().service()], tls=made) as server:
            assert [is_let_in(server.port, pair) for pair in (old, new)] == [True, False]
            new.write(tmp_path, "authorities")
            server.call(made.look)
            assert [is_let_in(server.port, pair) for pair in (old, new)] == [False, True]


class TestANode:
    """Both listeners of a node, with one certificate."""

    @pytest.fixture
    def node(self, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveNode]:
        monkeypatch.setattr("goloves.server.node.RENEW", 0.05)
        monkeypatch.setattr("goloves.server.listener.HANDSHAKE_TIMEOUT", 1.0)
        with LiveNode(tls=Certificates(*files)) as node:
            yield node

    def test_http_is_spoken_over_tls_as_http_1(self, node: LiveNode) -> None:
        def offer(context: ssl.SSLContext) -> None:
            context.set_alpn_protocols(["h2", "http/1.1"])

        with connect(node.port, offer) as client:
            assert client.selected_alpn_protocol() == "http/1.1"
            client.sendall(b"GET /api/segment/get/order HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = b"".join(iter(lambda: client.recv(4096), b""))
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.rpartition(b"\r\n\r\n")[2].isdigit()

    def test_changed_files_are_noticed_by_itself_on_both_listeners(self, node: LiveNode, tmp_path: Path) -> None:
        ports = node.port, int(node.grpc.rpartition(":")[2])
        fresh = self_signed(kind="RSA")
        fresh.write(tmp_path, "server")
        certificates = node.node._tls
        assert certificates is not None
        node.wait_for(lambda: certificates.renewals)
        for port in ports:
            assert serial(port) == ssl.PEM_cert_to_DER_cert(fresh.certificate.decode())

    def test_a_client_that_never_shakes_hands_is_let_go(self, node: LiveNode) -> None:
        for port in (node.port, int(node.grpc.rpartition(":")[2])):
            with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as silent:
                assert silent.recv(1) == b""


def test_a_client_that_does_not_read_is_cut_and_holds_little(files: tuple[Path, Path]) -> None:
    context = ssl.create_default_context(cafile=str(files[0]))
    context.set_alpn_protocols(["h2"])
    limits = GrpcLimits(write_timeout=1.0)
    wide = [(4, 2**31 - 1)]
    with (
        LiveGrpc([Echo().service()], limits, tls=Certificates(*files)) as server,
        RawClient(server.port, tls=context, settings=wide, credit=False, buffers=4096) as client,
    ):
        client.send(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 2**31 - 1 - 65_535)))
        spread = prefixed(ask("x", body=b"x" * 60_000, times=1000).SerializeToString())
        for _ in range(20):
            client.data(client.open(call_fields("/test.echo.Echo/Spread")), spread, end=True)
        most = 0

        def is_cut() -> bool:
            nonlocal most
            most = max(most, server.shared.unread)
            return server.shared.counters.cut_unread == 1

        server.wait_for(is_cut)
        assert 0 < most < 8_000_000
        server.wait_for(lambda: server.shared.open == 0)


class TestFilesThatCanNotBeUsed:
    def test_a_missing_file_is_named(self, files: tuple[Path, Path]) -> None:
        files[1].unlink()
        with pytest.raises(ConfigError, match=r"server\.key can't be read: No such file"):
            Certificates(*files)

    def test_a_key_of_another_certificate_is_told(self, files: tuple[Path, Path]) -> None:
        files[1].write_bytes(self_signed().key)
        with pytest.raises(ConfigError, match=r"does not belong to the certificate"):
            Certificates(*files)

    def test_what_is_no_pem_is_told(self, files: tuple[Path, Path]) -> None:
        files[0].write_bytes(b"nonsense")
        with pytest.raises(ConfigError, match=r"PEM files"):
            Certificates(*files)
