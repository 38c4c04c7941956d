"""From a request's head to its method, or to the answer that says why there is none.

Rules:
1. What is no gRPC call gets an HTTP status with words; a gRPC call that can't be made gets a gRPC status.
2. What a head leads to depends on the head alone, and is found out once for all requests with an equal head.
"""

from collections.abc import Mapping
from http import HTTPStatus

from goloves.server.grpc.call import HEAD_BLOCK, OK_BLOCK, Route
from goloves.server.grpc.methods import Method, Service
from goloves.wire.grpc import (
    ACCEPTED,
    HEAD,
    SHOWN,
    STATUS_OF_HTTP,
    CallError,
    Status,
    has_time,
    has_time_coded,
    is_grpc,
    percent_encode,
    request_encoding,
    subtype,
)
from goloves.wire.hpack import Field, encode
from goloves.wire.http2 import Connection, QuickWay, Request, RequestReader

TIMEOUT = b"grpc-timeout"


class HttpRefusal:
    """An answer to what is no gRPC call. Clients of gRPC that read it see a status, too."""

    def __init__(self, status: HTTPStatus, text: str, *more: Field, body: bool = True) -> None:
        meaning = STATUS_OF_HTTP.get(status, Status.UNKNOWN)
        self._head = encode(
            [
                (b":status", b"%d" % status),
                (b"content-type", b"text/plain;charset=utf-8"),
                (b"grpc-status", b"%d" % meaning),
                (b"grpc-message", percent_encode(text)),
                *more,
            ]
        )
        self._body = f"{status} {status.phrase}: {text}\n".encode() if body else b""

    def answer(self, wire: Connection, stream: int) -> None:
        """Give this answer."""
        wire.start_answer(stream, self._head)
        if self._body:
            wire.send_data(stream, self._body)
        wire.end_answer(stream)


REFUSED_OCTETS = 65_536
"""Octets of a request that are read before it is refused: what is refused early is reset, and clients of plain HTTP
that still send may take that for the answer."""


def refusal(error: CallError, *more: Field) -> bytes:
    """Give the header block that answers a call with an error and nothing else."""
    return encode([*HEAD, *more, *error.fields()])


class Routes:
    """The methods of a server, and where each request leads."""

    def __init__(self, services: Mapping[str, Service]) -> None:
        self._methods: dict[bytes, tuple[str, Method]] = {
            f"/{service.name}/{name}".encode(): (f"{service.name}/{name}", method)
            for service in services.values()
            for name, method in service.methods.items()
        }
        self._services = frozenset(name.encode() for name in services)

    def reader(self) -> RequestReader:
        """Give the reader of requests of all connections."""
        return RequestReader(TIMEOUT, QuickWay(self._prepare, has_time, has_time_coded, HEAD_BLOCK, OK_BLOCK))

    def _prepare(self, request: Request) -> None:
        route = self._find(request)
        request.route = route
        if isinstance(route, Route) and route.encoding == b"identity" and not route.method.many_requests:
            request.quick = route.method.quick if request.content_length is None else None

    def _find(self, request: Request) -> Route | HttpRefusal | bytes:
        """Give the route; or an HTTP answer; or the block of a gRPC answer."""
        if request.method != b"POST":
            return HttpRefusal(
                HTTPStatus.METHOD_NOT_ALLOWED,
                "this is a gRPC server; calls are made by POST",
                (b"allow", b"POST"),
                body=request.method != b"HEAD",  # RFC 9110 §9.3.2
            )
        kind = next((value for name, value in request.fields if name == b"content-type"), b"")
        if not is_grpc(kind):
            return HttpRefusal(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "this is a gRPC server; it takes the content type application/grpc"
            )
        try:
            return self._route(request, subtype(kind))
        except CallError as error:
            return refusal(error, ACCEPTED)

    def _route(self, request: Request, subtype: bytes) -> Route:
        if subtype != b"proto":
            shown = subtype[:SHOWN].decode()
            raise CallError(Status.UNIMPLEMENTED, f"messages as {shown} are not spoken here, only as proto")
        encoding = request_encoding(request.fields)
        if any(name == TIMEOUT for name, _ in request.fields):
            raise CallError(Status.INTERNAL, "grpc-timeout is there twice")
        found = self._methods.get(request.path)
        if found is None:
            service = request.path[1:].rpartition(b"/")[0]
            shown = request.path[:SHOWN].decode(errors="replace")
            what = (
                f"{shown}: this server has no such method" if service in self._services else f"{shown}: unknown service"
            )
            raise CallError(Status.UNIMPLEMENTED, what)
        accepted = b",".join([value for name, value in request.fields if name == b"grpc-accept-encoding"])
        takes = [name.strip() for name in accepted.split(b",")]
        compress = encoding != b"identity" and encoding in takes
        return Route(*found, encoding, request.fields, compress=compress)
