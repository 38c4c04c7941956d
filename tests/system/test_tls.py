"""`goloves serve` with `[tls]`: people's own clients on both listeners, with a certificate and a client's own."""

import shutil
import ssl
import subprocess
from pathlib import Path

import grpc
import httpx2
import pytest

from goloves.v1 import goloves_pb2 as pb
from goloves.v1.goloves_pb2_grpc import SegmentServiceStub
from server.grpc.certificates import self_signed
from system.serving import PATIENCE, Serving, Start


@pytest.fixture
def served(start: Start, tmp_path: Path) -> Serving:
    server, client = self_signed(), self_signed("client")
    certificate, key = server.write(tmp_path, "server")
    authorities, _ = client.write(tmp_path, "client")
    serving = start(
        GOLOVES_TLS__CERTIFICATE=str(certificate),
        GOLOVES_TLS__KEY=str(key),
        GOLOVES_TLS__CLIENT_AUTHORITIES=str(authorities),
    )
    serving.says(r"^Goloves .* listens on https://")
    return serving


def test_curl_httpx_and_grpcio_draw_ids_over_tls(served: Serving, tmp_path: Path) -> None:
    url = served.urls[0]
    trusted, shown, key = (str(tmp_path / name) for name in ("server.crt", "client.crt", "client.key"))
    context = ssl.create_default_context(cafile=trusted)
    context.load_cert_chain(shown, key)
    with httpx2.Client(verify=context, timeout=PATIENCE) as client:
        served.wait(lambda: client.get(f"{url}/readyz").status_code == 200, "readiness")
        ids = [int(client.get(f"{url}/api/segment/get/default").text) for _ in range(20)]
        ids += map(int, client.post(f"{url}/v1/segments/default/ids", params={"count": 10_000}).json()["ids"])
    assert shutil.which("curl") is not None
    command = ["curl", "-sS", "--cacert", trusted, "--cert", shown, "--key", key, f"{url}/api/segment/get/default"]
    ids.append(int(subprocess.run(command, capture_output=True, check=True, timeout=PATIENCE).stdout))
    files = [Path(name).read_bytes() for name in (trusted, key, shown)]
    address = served.says(r"^  gRPC     (\S+)")[1]
    with grpc.secure_channel(
        f"localhost:{address.rpartition(':')[2]}", grpc.ssl_channel_credentials(*files)
    ) as channel:
        stub = SegmentServiceStub(channel)
        for count in (1, 10_000):
            ids += stub.Next(pb.SegmentNextRequest(tag="default", count=count), timeout=PATIENCE).ids
    assert len(set(ids)) == len(ids) == 20_022
    stranger = ssl.create_default_context(cafile=trusted)
    with pytest.raises(httpx2.TransportError):
        httpx2.get(f"{url}/healthz", verify=stranger, timeout=PATIENCE)
    assert served.stop() == 0
