"""The checks at the start, which tell whether a store can be trusted.

Each refusal says what to do. Nothing is changed here; what is looked at is read in one transaction.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import BigInteger, Connection, Inspector, Integer, String, inspect, or_, select, text
from sqlalchemy.exc import DBAPIError

from goloves.errors import StoreRefused
from goloves.stores import schema
from goloves.stores.dialects import Dialect, Verdict

LOOKED_AT = 10_000
"""Rows of `leaf_alloc` whose numbers are looked at when a store is opened: a second's worth for no database, and most
have fewer. The numbers of each row are looked at again when it is used."""

NETWORK_FILE_SYSTEMS = frozenset(
    {
        "9p",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "coda",
        "davfs",
        "gfs2",
        "glusterfs",
        "gpfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
    }
    | {"ocfs2", "pvfs2", "smb2", "smb3", "smbfs"}
    | {f"fuse.{name}" for name in ("davfs", "gcsfuse", "glusterfs", "juicefs", "mfs", "rclone", "s3fs", "sshfs")}
)
"""Their locks can't be relied on, and SQLite's write-ahead log needs shared memory (R8)."""

FORGETFUL_FILE_SYSTEMS = frozenset({"overlay", "aufs", "tmpfs", "ramfs"})
"""What is in them is gone with the container or the machine."""


@dataclass(frozen=True)
class Facts:
    """What was found out about a store."""

    migrated: bool
    """Goloves' own tables exist."""
    empty: bool = False
    """Nothing exists."""
    binary_names: bool = False
    """The names in `leaf_alloc` sort by their bytes."""
    uuid: str = ""
    machine: str = ""


Migrated = Literal["made", "added", "renewed", "nothing"]
"""What a migration did: made all tables, added Goloves' own beside Leaf's, brought them to a newer form, or nothing."""


@dataclass(frozen=True)
class State:
    """Which tables exist, and of which version: all that has to be known before a migration."""

    leaf: bool
    version: str | None


def state(connection: Connection) -> State:
    """Look which tables exist; refuses nothing."""
    tables = set(inspect(connection).get_table_names())
    return State(schema.leaf.name in tables, _revision(connection, tables))


def migrated(before: State, after: State) -> Migrated:
    """Say what happened between the two."""
    if before == after:
        return "nothing"
    if before.version is not None:
        return "renewed"
    return "added" if before.leaf else "made"


def look(connection: Connection, dialect: Dialect) -> Facts:
    """Look at a store as a whole; raises StoreRefused."""
    _check_writable(connection, dialect)
    inspector = inspect(connection)
    tables = set(inspector.get_table_names())
    has_leaf, has_version = schema.leaf.name in tables, schema.LEAST_TABLE in tables
    if not has_leaf and not has_version and schema.meta.name not in tables:
        return Facts(migrated=False, empty=True)
    where = dialect.url.address
    if not has_version and schema.meta.name in tables:
        raise StoreRefused(f"a migration of {where} did not come to its end; run: goloves migrate")
    if has_version:
        _check_version(connection, tables, where)
    if not has_leaf:
        raise StoreRefused(f"{where} lacks the table leaf_alloc; restore it from a backup, then run: goloves repair")
    binary = _check_leaf(inspector, dialect)
    if not has_version:
        return Facts(migrated=False, binary_names=binary)
    row = connection.execute(select(schema.meta.c.uuid, schema.meta.c.machine)).one_or_none()
    if row is None:
        raise StoreRefused(
            f"{where} lost the row of goloves_meta; restore the table from a backup, then run: goloves repair"
        )
    return Facts(migrated=True, binary_names=binary, uuid=row.uuid, machine=row.machine)


def try_out(connection: Connection, dialect: Dialect, *, migrated: bool) -> None:
    """Try whether the store may be written, and look at its numbers; raises StoreRefused.

    In a transaction that writes, so that SQLite waits for other writers.
    """
    _check_rights(connection, dialect, migrated=migrated)
    _check_numbers(connection, dialect.url.address)


def _check_writable(connection: Connection, dialect: Dialect) -> None:
    where = dialect.url.address
    if dialect.name == "postgresql":
        recovering, read_only = connection.exec_driver_sql(
            "SELECT pg_is_in_recovery(), current_setting('transaction_read_only')"
        ).one()
        if recovering:
            raise StoreRefused(f"{where} is a replica and can only be read; name the primary in the store URL")
        if read_only == "on":
            raise StoreRefused(
                f"{where} is read-only (default_transaction_read_only is on); switch that off for this user"
            )
    # MariaDB lets accounts with READ_ONLY ADMIN write all the same; a replica is no store for them either.
    if dialect.name == "mysql" and connection.exec_driver_sql("SELECT @@GLOBAL.read_only").scalar() in (1, "ON"):
        raise StoreRefused(f"{where} is read-only, as replicas are; name the primary in the store URL")


FIRST = "0001"
"""The revision of a store that has no table of revisions yet."""


def _revision(connection: Connection, tables: set[str]) -> str | None:
    """Read the revision of the tables; None if there are none, or if a migration broke off."""
    if schema.REVISION_TABLE in tables:
        found: str | None = connection.execute(text(f"SELECT version_num FROM {schema.REVISION_TABLE}")).scalar()
        return found
    return FIRST if schema.LEAST_TABLE in tables else None


def _check_version(connection: Connection, tables: set[str], where: str) -> None:
    """Refuse tables that are older than this code, and those that are newer and say that it can't use them."""
    least = connection.execute(text(f"SELECT version_num FROM {schema.LEAST_TABLE}")).scalar()
    found = _revision(connection, tables)
    if found is None or least is None:
        raise StoreRefused(f"a migration of {where} did not come to its end; run: goloves migrate")
    if least > schema.VERSION:
        raise StoreRefused(
            f"the tables of {where} have version {found}, made by a newer Goloves, and need one that knows {least};"
            f" this one knows {schema.VERSION}: upgrade it"
        )
    if found < schema.VERSION:
        raise StoreRefused(
            f"the tables of {where} have version {found}, this Goloves needs {schema.VERSION}; run: goloves migrate"
            " (nodes of the version before may go on meanwhile)"
        )


def _check_leaf(inspector: Inspector, dialect: Dialect) -> bool:
    """Check the form of Leaf's table; True if its names sort by their bytes."""
    name = schema.leaf.name
    where = f"the table {name} in {dialect.url.address}"
    columns: dict[str, Any] = {column["name"].lower(): column["type"] for column in inspector.get_columns(name)}
    for column in schema.leaf.c:
        if column.name not in columns:
            raise StoreRefused(
                f"{where} has no column {column.name}; add it as in Leaf's own table (docs/migration-from-leaf.md)"
            )
    number = columns["max_id"]
    whole = isinstance(number, BigInteger) or (dialect.name == "sqlite" and isinstance(number, Integer))
    if not whole or getattr(number, "unsigned", False):
        raise StoreRefused(
            f"max_id in {where} is of type {number}, which clamps or rounds at its end; make it a signed BIGINT:"
            f" ALTER TABLE {name} MODIFY max_id BIGINT NOT NULL DEFAULT 1"
        )
    if not isinstance(columns["step"], Integer):
        raise StoreRefused(f"step in {where} is of type {columns['step']}; make it an INT")
    if not isinstance(columns["biz_tag"], String):
        raise StoreRefused(f"biz_tag in {where} is of type {columns['biz_tag']}; make it a VARCHAR(128)")
    keys: list[Sequence[str | None]] = [inspector.get_pk_constraint(name)["constrained_columns"]]
    keys += [index["column_names"] for index in inspector.get_indexes(name) if index["unique"]]
    if ["biz_tag"] not in [[str(column).lower() for column in key] for key in keys]:
        raise StoreRefused(
            f"biz_tag in {where} is no unique key; make it one: ALTER TABLE {name} ADD PRIMARY KEY (biz_tag)"
        )
    if dialect.name == "mysql":
        engine = str(inspector.get_table_options(name).get("mysql_engine", ""))
        if engine.lower() not in ("innodb", "rocksdb"):
            raise StoreRefused(
                f"{where} uses the engine {engine}, which has no transactions; change it:"
                f" ALTER TABLE {name} ENGINE=InnoDB"
            )
    collation = getattr(columns["biz_tag"], "collation", None) or ""
    if dialect.name == "postgresql" and not collation:
        return False
    return collation.lower() in dialect.binary_collations


def _check_numbers(connection: Connection, where: str) -> None:
    some = select(schema.leaf.c.biz_tag, schema.leaf.c.max_id, schema.leaf.c.step).limit(LOOKED_AT).subquery()
    row = connection.execute(select(some).where(or_(some.c.max_id < 0, some.c.step < 1)).limit(1)).one_or_none()
    if row is None:
        return
    if row.max_id < 0:
        raise StoreRefused(
            f"max_id of the tag {row.biz_tag!r} in {where} is {row.max_id}; set it above every id issued, by SQL:"
            " UPDATE leaf_alloc SET max_id = …"
        )
    raise StoreRefused(
        f"step of the tag {row.biz_tag!r} in {where} is {row.step}; set it to 1 or above, by SQL:"
        " UPDATE leaf_alloc SET step = …"
    )


def _check_rights(connection: Connection, dialect: Dialect, *, migrated: bool) -> None:
    """Change nothing, in each table that is written: databases check the right to do so all the same."""
    tables = [schema.leaf]
    if migrated:
        tables += [schema.tag, schema.space, schema.worker, schema.meta, schema.mark]
    for table in tables:
        column = next(iter(table.c))
        try:
            connection.execute(table.update().where(text("1 = 0")).values({column.name: column}))
        except DBAPIError as error:
            if dialect.verdict(error, committing=False) is not Verdict.FAILED:
                raise  # another node writes at this moment, or the connection is gone: no word about rights
            raise StoreRefused(
                f"{dialect.url.address} does not let us write {table.name} ({dialect.words(error)}); grant SELECT,"
                " INSERT, UPDATE and DELETE on its tables"
            ) from error


# --- files ---


def machine_id(files: tuple[str, ...] = ("/etc/machine-id", "/var/lib/dbus/machine-id")) -> str:
    """Give this machine's id; empty where there is none, or in a container, whose machine changes all the time."""
    if in_container():
        return ""
    for file in files:
        try:
            return Path(file).read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            continue
    return ""


def in_container() -> bool:
    """Say whether this process runs in a container (Docker, Podman, Kubernetes, systemd-nspawn)."""
    if Path("/.dockerenv").exists() or Path("/run/.containerenv").exists():
        return True
    return bool(os.environ.get("container") or os.environ.get("KUBERNETES_SERVICE_HOST"))  # noqa: SIM112 - systemd's name


def file_system(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """Give the type of the file system in which `path` lies; empty if that can't be found out."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ""
    real = path.resolve()
    best, found = -1, ""
    for line in lines:
        left, _, right = line.partition(" - ")
        fields, kinds = left.split(), right.split()
        if len(fields) < 5 or not kinds:
            continue
        mount = Path(fields[4].encode("latin-1", "replace").decode("unicode_escape"))
        if (mount == real or mount in real.parents) and len(mount.parts) >= best:
            best, found = len(mount.parts), kinds[0]
    return found


def check_file_system(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """Refuse a network file system (StoreRefused); give a warning for one that forgets, else an empty text (R8)."""
    kind = file_system(path, mounts)
    if kind in NETWORK_FILE_SYSTEMS:
        raise StoreRefused(
            f"{path} lies on a network file system ({kind}), whose locks can't be trusted with unique ids; use a local"
            " disk, or a database server (mysql://, postgresql://)"
        )
    if kind in FORGETFUL_FILE_SYSTEMS:
        return f"{path} lies on a {kind} file system, which forgets: ids repeat after that; mount a volume there"
    return ""


def identity_of(path: Path) -> tuple[int, int] | None:
    """Give device and inode of a file; None if it is gone."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
