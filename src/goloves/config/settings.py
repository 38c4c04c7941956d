"""The settings, section by section, with their defaults.

Rules:
1. Each setting's docstring says what it does, its unit, and what breaks if it is wrong; the reference page and the
   commented file are made from these docstrings. Times are seconds unless the name says otherwise.
2. A setting is here only if something uses it now. What later versions bring is in `LATER`, and refused.
3. Everything is frozen: a running node's configuration never changes.
4. Store URLs hold passwords: whoever shows one masks it (`mask_url`), and so does the `repr` of what holds them.
"""

import re
import socket
from typing import Literal, TypeVar

import msgspec

from goloves.core.layout import Layout, preset
from goloves.errors import ConfigError
from goloves.server.grpc.limits import GrpcLimits
from goloves.server.limits import HttpLimits

DEFAULT_SPACE = "default"
"""The space that always exists; Leaf's route serves it."""

FEW_WORKERS = 256
"""A space of fewer worker ids than this has short windows, so that crashed nodes don't hold all of them (W6)."""

SHORT_WINDOW = 60.0
"""Seconds: the default window of a space of few workers."""

ORDINAL = "ordinal"
"""What stands for the number at the end of the host name, where a worker id is asked for."""

S = TypeVar("S")


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the sections have in common: frozen, and no unknown fields."""


class ServerConfig(Section, frozen=True):
    """[server]: the process as a whole."""

    data_dir: str = "./data"
    """Directory of the embedded store, of the nodes' marks, and of the socket for `goloves reload`. Relative to where
    `goloves` is started. One service has it for itself. If it is lost, so are the embedded store's numbers: put it on a
    disk that stays."""
    nodes: int | Literal["auto"] = 1
    """Data-plane processes, started and watched by a supervisor; `auto` is one for each core that the process may use.
    One issues a tag's numbers in rising order, several do not; `make bench` tells what one can serve. More than there
    are cores only cost memory. 0: no supervisor, the process that was started serves by itself, which saves the
    supervisor's memory; then nothing replaces a node that dies, and there is no `goloves reload`."""
    drain: float = 5.0
    """How long a stopping node waits for requests under way before it closes their connections. Too short: clients see
    connections cut at each restart; longer than the service manager's patience: the process is killed, and its worker
    id rests for a window."""
    notice: float = 0.2
    """How long a service that stops still takes new connections, while `/readyz` says 503 and every answer asks to
    close; then connects are refused. A load balancer that checks by itself every second learns of the stop with 2; it
    adds to the time of each stop. One that repeats a refused connect at another node, as most do, needs none of it."""
    unresponsive: float = 10.0
    """A node from which the supervisor heard nothing for this long is killed and replaced; its worker id rests for a
    window. Lower: nodes on a machine that is merely overloaded are killed; higher: connections to a node that hangs
    wait for longer."""


class StoresConfig(Section, frozen=True):
    """[stores]: where grants come from."""

    url: str = "sqlite:///{data_dir}/goloves.db"
    """The store: `sqlite:///relative/path`, `sqlite:////absolute/path`, `mysql://user:password@host:port/database`
    (also MariaDB) or `postgresql://user:password@host:port/database`. `{data_dir}` stands for `server.data_dir`.
    Percent-encode special characters of a password, or use `password_file`. Pointing a service at another store makes
    its numbers begin again there."""
    url_file: str | None = None
    """File that holds the URL, instead of `url`: a secret mounted into a container, for example."""
    segments: str | None = None
    """Store of the ranges, if it is another than `url`."""
    segments_file: str | None = None
    """File that holds the URL for `segments`."""
    windows: str | None = None
    """Store of the windows, if it is another than `url`."""
    windows_file: str | None = None
    """File that holds the URL for `windows`."""
    password_file: str | None = None
    """File that holds the password for those store URLs that name a user and no password."""
    timeout: float = 2.0
    """How long one call to the store may take. Too short: ranges are burned while the database is merely slow; too
    long: ids come back late after a database was away."""
    pool: int = 5
    """Most connections that a node opens to a database server. Five serve a thousand refills a second. Too few: many
    tags that run dry at once wait for one another; too many: nodes times this has to stay below the database's own
    limit."""
    failover: Literal["halt", "skip", "ignore"] = "halt"
    """What to do when the database server is another one than before, or its log was set back: commits may be lost, and
    what they granted would be granted again. `halt` stops all ids until `goloves repair`; `skip` goes on by itself,
    above `failover_gap` numbers of every tag and, for Snowflake ids, after a window's length; `ignore` is for clusters
    that lose nothing (Galera, synchronous replicas) behind one address. With `ignore` and a replica that had not seen
    the last commits, ids are issued twice."""
    failover_gap: int = 10_000_000
    """Numbers that every tag leaves out at a failover with `skip`. Less than what all nodes can be granted of a tag
    while a replica lags: ids are issued twice; more: larger gaps in the numbers, nothing else."""
    create: bool = True
    """Whether a start may make an embedded store that is missing. It does so only where all listeners are on loopback
    or Unix sockets and no node remembers a store. With `false` only `goloves migrate` and `--init` make one: where the
    data directory is mounted, as in a container, a volume that is missing one day would begin at 1 and repeat ids."""
    allow_lost_commits: bool = False
    """Accept a database that may lose committed transactions in a crash (durability switched off). Numbers are then
    issued twice after such a crash; for tests only."""

    def __repr__(self) -> str:
        return f"StoresConfig({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        values = msgspec.structs.asdict(self)
        return [(name, mask_url(value) if isinstance(value, str) else value) for name, value in values.items()]


class SegmentConfig(Section, frozen=True):
    """[segment]: ranges and their refills."""

    deadline: float = 0.2
    """How long a request waits for a refill before it gets 503. Too low: errors at each hiccup; too high: callers pile
    up."""
    target: float = 900.0
    """How long a range should last: a shorter-lived one doubles the next step, one that lasted over twice this halves
    it. Lower: more refills; higher: larger gaps after a restart."""
    max_step: int = 1_000_000
    """The step grows no further by itself. Higher: fewer refills, larger gaps after a restart."""
    default_step: int = 1000
    """Step of tags that `auto_create` makes. Too low: a burst on a new tag starts with many small refills."""
    auto_create: bool = False
    """Create a tag at its first use. With it, a typo in a client makes a new sequence."""
    refresh: float = 60.0
    """How often the tags in use are read again: changed steps, deleted tags and new marks are noticed within this time.
    Lower: more reads; higher: a tag deleted by SQL is served for longer."""
    max_waiting: int = 10_000
    """Requests that may wait for one tag at once; the next one gets 429. Lower: errors in bursts; higher: more memory
    while a store is away."""


class SnowflakeConfig(Section, frozen=True):
    """[snowflake]: windows and clocks, for all spaces."""

    deadline: float = 0.2
    """How long a request waits for a window or for the clock before it gets 503 or 429. Too low: errors at each hiccup;
    too high: callers pile up."""
    max_backward: float = 10.0
    """A clock that steps back by up to this is ridden out; beyond it the node takes another worker id. Lower: small
    corrections of the clock cost worker ids; higher: ids carry times that are off by as much."""
    max_forward: float = 10.0
    """A clock that is ahead of the store's by more than this claims and extends nothing. Lower: nodes with sloppy
    clocks serve no ids; higher: a wrong clock pushes a worker id's floor that far into the future."""


class SpaceConfig(Section, frozen=True):
    """[spaces.NAME]: one Snowflake id space. Its layout and epoch can never change once ids were issued."""

    preset: Literal["leaf", "js53", "sonyflake", "uid"] = "leaf"
    """The bit layout; the single fields below override it. `leaf`: time 41, worker 10, sequence 12 bits at 1 ms.
    `js53`: 38, 7, 8 at 10 ms, exact in JavaScript. `sonyflake`: time 39, sequence 8, worker 16 at 10 ms. `uid`: 28, 22,
    13 at 1 s, and asks for an epoch. A node whose layout is not the one stored with the space is refused."""
    epoch_ms: int | None = None
    """Epoch, ms since 1970; none takes the preset's. Another epoch than the one that the ids were made with makes
    decoding wrong."""
    time_bits: int | None = None
    """Bits of the time field, 24 to 48. Too few: the layout's time runs out early."""
    worker_bits: int | None = None
    """Bits of the worker field, 1 to 22. Too few: nodes wait for a worker id."""
    sequence_bits: int | None = None
    """Bits of the sequence field, 1 to 24. Too few: requests over the rate of the layout get 429."""
    unit_ms: int | None = None
    """Unit of the time field: 1, 10, 100 or 1000 ms. Coarser: the time reaches further, fewer ids a second."""
    worker_first: bool | None = None
    """Order of the lower fields: true is time, worker, sequence (Leaf), false is time, sequence, worker (Sonyflake)."""
    workers: str | None = None
    """The worker ids that nodes may claim, the first and the last of them: `"512-1023"`. None: all that the layout has.
    Beside Leaf's own Snowflake, or any other that numbers ids alike, leave out each worker id that it uses: otherwise
    both give the same ids. Nodes of one space that name different worker ids are fine."""
    worker: str | None = None
    """This node's own worker id: a number such as `"7"`, or `"ordinal"`, the number at the end of the host name, as the
    pods of a Kubernetes StatefulSet have one (`goloves-3` is 3); with `workers` the ordinal counts from the first of
    those. None: the store chooses, which needs no care. All nodes of a space have one, or none has. Two with the same
    number don't issue the same id: the second waits, not ready, and names the first. After a crash a node waits for its
    own window's end."""
    window: float = 600.0
    """How long a window is; a space in which fewer than 256 worker ids may be claimed, or whose worker ids are static,
    has 60 unless this is set. The store can be away for nine tenths of it; after a crash the worker id rests for as
    long."""

    def worker_ids(self, host: str | None = None) -> range | None:
        """Give the worker ids that this node may claim, None if all may be; ConfigError if the layout lacks some (W10).

        `host`: the name whose ordinal counts, this machine's if None.
        """
        allowed = self._allowed()
        if self.worker is None:
            return allowed
        if self.worker == ORDINAL:
            number = ordinal(socket.gethostname() if host is None else host) + (allowed.start if allowed else 0)
        elif re.fullmatch("[0-9]{1,7}", self.worker):
            number = int(self.worker)
        else:
            raise ConfigError(f'worker is a number, as in "7", or "{ORDINAL}"')
        there = allowed or range(self.layout().workers)
        if number not in there:
            raise ConfigError(f"this node would have the worker id {number}; there are {there[0]} to {there[-1]}")
        return range(number, number + 1)

    def _allowed(self) -> range | None:
        if self.workers is None:
            return None
        found = _WORKERS.fullmatch(self.workers)
        if found is None:
            raise ConfigError('workers names the first and the last worker id, as in "512-1023"')
        first, last = int(found[1]), int(found[2] or found[1])
        if first > last:
            raise ConfigError(f"workers begins at {first} and ends before, at {last}; write the lower one first")
        there = self.layout().workers
        if last >= there:
            raise ConfigError(f"workers ends at {last}, and the layout has the worker ids 0 to {there - 1}")
        return range(first, last + 1)

    def layout(self) -> Layout:
        """Give the preset with the overriding fields; ConfigError if the result is no layout."""
        base = preset(self.preset, self.epoch_ms)
        return Layout(
            time_bits=_chosen(self.time_bits, base.time_bits),
            worker_bits=_chosen(self.worker_bits, base.worker_bits),
            sequence_bits=_chosen(self.sequence_bits, base.sequence_bits),
            worker_first=_chosen(self.worker_first, base.worker_first),
            unit_ms=_chosen(self.unit_ms, base.unit_ms),
            epoch_ms=base.epoch_ms,
        )


class HttpConfig(HttpLimits, frozen=True, kw_only=True):
    """[http]: the HTTP data plane: where it listens, and what it allows a peer."""

    listen: list[str] = msgspec.field(default_factory=lambda: ["127.0.0.1:8080"])
    """Where HTTP is served: `host:port`, `[ipv6]:port` or `unix:/path`. Whoever reaches an address can draw ids: stay
    on loopback or inside a private network."""


class GrpcConfig(GrpcLimits, frozen=True, kw_only=True):
    """[grpc]: the gRPC data plane: where it listens, and what it allows a peer."""

    listen: list[str] = msgspec.field(default_factory=lambda: ["127.0.0.1:50051"])
    """Where gRPC is served, as `http.listen`; an empty list serves none."""


class AdminConfig(Section, frozen=True):
    """[admin]: what the supervisor serves for people and monitors."""

    listen: str = "127.0.0.1:8081"
    """Where `/readyz` and `/healthz` tell of the service as a whole and `/nodes` of each node: `host:port` or
    `unix:/path`; empty serves none. Whoever reaches it can read, and change nothing. Other addresses than those of
    loopback need `token_file`."""
    token_file: str | None = None
    """File that holds a token of 16 characters or more. With it, who does not send `Authorization: Bearer` and the
    token learns only the status of `/readyz` and `/healthz`, as probes need it, and nothing of `/nodes`. It is read
    again when it changes. It is sent as it is: keep the address inside a private network, or put a proxy with TLS in
    front."""


class TlsConfig(Section, frozen=True):
    """[tls]: TLS for HTTP and gRPC alike. Without a certificate both are plain."""

    certificate: str | None = None
    """PEM file of the certificate, with those between it and its authority. It is read again when it changes, as the
    other files are; a renewed one serves new connections."""
    key: str | None = None
    """PEM file of its key, without a password; may be the same file."""
    client_authorities: str | None = None
    """PEM file of the authorities whose client certificates are accepted. Without it clients need none, and whoever
    reaches an address can draw ids. One that is taken out is trusted until the node is started anew."""
    client_required: bool = True
    """Whether clients need a certificate where `client_authorities` is set. If not, those without one are let in."""


class LogConfig(Section, frozen=True):
    """[log]: what is said on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least important messages that are shown. `warning` and `error` hide starts and stops, and what came back."""
    format: Literal["text", "json"] = "text"
    """`text` for people, `json` for collectors: one object a line."""


class LeafConfig(Section, frozen=True):
    """[leaf]: Leaf's own routes."""

    spaces: dict[str, str] = {}
    """Keys of `/api/snowflake/get/{key}` that another space than `default` serves. Ids are unique within a space only:
    two keys in two spaces can give the same id."""


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that can be set."""

    server: ServerConfig = ServerConfig()
    stores: StoresConfig = StoresConfig()
    segment: SegmentConfig = SegmentConfig()
    snowflake: SnowflakeConfig = SnowflakeConfig()
    spaces: dict[str, SpaceConfig] = {}
    """By name; `default` always exists, with the layout `leaf` unless it says otherwise."""
    http: HttpConfig = HttpConfig()
    grpc: GrpcConfig = GrpcConfig()
    admin: AdminConfig = AdminConfig()
    tls: TlsConfig = TlsConfig()
    log: LogConfig = LogConfig()
    leaf: LeafConfig = LeafConfig()

    def __post_init__(self) -> None:
        if DEFAULT_SPACE not in self.spaces:
            msgspec.structs.force_setattr(self, "spaces", {DEFAULT_SPACE: SpaceConfig(), **self.spaces})

    @property
    def segments_url(self) -> str:
        """The URL of the store of the ranges, with its password."""
        return self._resolved(self.stores.segments or self.stores.url)

    @property
    def windows_url(self) -> str:
        """The URL of the store of the windows, with its password."""
        return self._resolved(self.stores.windows or self.stores.url)

    def _resolved(self, url: str) -> str:
        return url.replace("{data_dir}", self.server.data_dir.rstrip("/") or "/")


LATER = {
    "auth": "access rights",
    "limits": "limits of single clients and tags",
    "tinyid": "tinyid's routes",
}
"""Sections whose names are fixed and whose content later versions bring."""


def mask_url(url: str) -> str:
    """Give the URL without its secrets: a password, and query values that look like one, become ***.

    Everything up to the last @ counts as password, since people forget to percent-encode: rather too much is hidden.
    """
    masked = (_USER_INFO if "://" in url else _BARE_USER_INFO).sub(r"\1:***@", url, count=1)
    return _SECRET_VALUE.sub(r"\1***", masked)


def ordinal(host: str) -> int:
    """Give the number at the end of a host name, its domain left out: 3 for `goloves-3.ids.svc`; ConfigError if none.

    That is how Kubernetes names the pods of a StatefulSet, and how people number machines.
    """
    found = _ORDINAL.search(host.partition(".")[0])
    if found is None:
        raise ConfigError(
            f'the host name {host!r} ends in no number, as in "goloves-3"; run it in a StatefulSet, name the host so,'
            " or set the worker id by number"
        )
    return int(found[1])


_ORDINAL = re.compile(r"[^0-9]([0-9]{1,7})$")
_WORKERS = re.compile(r"([0-9]{1,7})(?: ?- ?([0-9]{1,7}))?")
_USER_INFO = re.compile(r"(://[^:/?#@]*):.*@", re.DOTALL)
_BARE_USER_INFO = re.compile(r"^([^:/?#@]*):.*@", re.DOTALL)
_SECRET_VALUE = re.compile(r"([?&;][^=&;]*(?:pass|pwd|secret|token|key)[^=&;]*=)[^&;]*", re.IGNORECASE)


def _chosen(override: S | None, base: S) -> S:
    return base if override is None else override
