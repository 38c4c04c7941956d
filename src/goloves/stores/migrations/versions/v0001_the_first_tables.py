"""The first tables: Leaf's, and Goloves' own beside it."""

import uuid

import sqlalchemy as sa
from alembic import op

from goloves.core.layout import Layout

revision = "0001"
down_revision = None

MAX_NUMBER = 2**63 - 1


def _text(length: int) -> sa.types.TypeEngine[str]:
    """Give a text that is compared byte for byte; STRICT tables of SQLite know only TEXT."""
    from sqlalchemy.dialects.mysql import VARCHAR

    return (
        sa.String(length, collation="C")
        .with_variant(sa.Text(), "sqlite")
        .with_variant(VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb")
    )


def _table(name: str, *parts: sa.schema.SchemaItem) -> sa.Table:
    return sa.Table(
        name,
        sa.MetaData(),
        *parts,
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        mariadb_engine="InnoDB",
        mariadb_charset="utf8mb4",
        mariadb_collate="utf8mb4_bin",
        sqlite_strict=True,
    )


def upgrade() -> None:
    """Make what does not exist."""
    connection = op.get_bind()
    big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    small = sa.SmallInteger().with_variant(sa.Integer(), "sqlite")
    was_leafs = sa.inspect(connection).has_table("leaf_alloc")
    if not was_leafs:
        _make_leaf(connection, big)

    tag = _table(
        "goloves_tag",
        sa.Column("name", _text(128), primary_key=True),
        sa.Column("mark", big, nullable=False),
        sa.Column("limit", big, nullable=False),
        sa.Column("halted", _text(1000), nullable=False, server_default=""),
        sa.Column("skipped", big, nullable=False, server_default="0"),
    )
    mark = _table(
        "goloves_mark",
        sa.Column("node", _text(255), primary_key=True),
        sa.Column("kind", _text(8), primary_key=True),
        sa.Column("name", _text(128), primary_key=True),
        sa.Column("worker", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("value", big, nullable=False),
    )
    space = _table(
        "goloves_space",
        sa.Column("name", _text(128), primary_key=True),
        sa.Column("layout", _text(200), nullable=False),
        sa.Column("fingerprint", _text(64), nullable=False),
        sa.Column("epoch_ms", big, nullable=False),
        sa.Column("unit_ms", sa.Integer(), nullable=False),
        sa.Column("floor", big, nullable=False, server_default="0"),
    )
    worker = _table(
        "goloves_worker",
        sa.Column("space", _text(128), primary_key=True),
        sa.Column("worker", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("fence", big, nullable=False),
        sa.Column("start", big, nullable=False),
        sa.Column("floor", big, nullable=False),
        sa.Column("nonce", _text(32), nullable=False),
        sa.Column("owner", _text(255), nullable=False),
        sa.Column("seen_ms", big, nullable=False),
        sa.Index("goloves_worker_floor", "space", "floor"),
        sa.Index("goloves_worker_nonce", "space", "nonce"),
    )
    meta = _table(
        "goloves_meta",
        sa.Column("id", small, primary_key=True, autoincrement=False),
        sa.Column("uuid", _text(36), nullable=False),
        sa.Column("halt", _text(1000), nullable=False, server_default=""),
        sa.Column("skipped", big, nullable=False, server_default="0"),
        sa.Column("machine", _text(64), nullable=False, server_default=""),
        sa.Column("server", _text(200), nullable=False, server_default=""),
    )
    for table in (tag, mark, space, worker, meta):
        table.create(connection, checkfirst=True)
    _fill(connection, tag, space, meta, was_leafs=was_leafs)


def _make_leaf(connection: sa.Connection, big: sa.types.TypeEngine[int]) -> None:
    """Make Leaf's table as Leaf's own script does, but for the collation and, in SQLite, the type of a moment."""
    moment = sa.DateTime().with_variant(sa.Text(), "sqlite").with_variant(sa.TIMESTAMP(timezone=True), "postgresql")
    renewed = "CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP"
    on_update = connection.dialect.name in ("mysql", "mariadb")
    if on_update:
        moment = sa.TIMESTAMP()
    leaf = _table(
        "leaf_alloc",
        sa.Column("biz_tag", _text(128), primary_key=True, server_default=""),
        sa.Column("max_id", big, nullable=False, server_default="1"),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("description", _text(256), nullable=True),
        sa.Column(
            "update_time", moment, nullable=False, server_default=sa.text(renewed if on_update else "CURRENT_TIMESTAMP")
        ),
    )
    leaf.create(connection)
    connection.execute(
        leaf.insert().values(biz_tag="default", max_id=1, step=1000, description="exists from the start")
    )


def _fill(connection: sa.Connection, tag: sa.Table, space: sa.Table, meta: sa.Table, *, was_leafs: bool) -> None:
    """Give each tag its mark, and the store its uuid; a second run changes nothing."""
    leaf = sa.table("leaf_alloc", sa.column("biz_tag", sa.String), sa.column("max_id", sa.BigInteger))
    known = sa.exists().where(tag.c.name == leaf.c.biz_tag)
    if connection.dialect.name in ("mysql", "mariadb"):
        # An index-friendly comparison needs one collation on both sides; Leaf's table may have another.
        name: sa.ColumnElement[str] = sa.func.convert(leaf.c.biz_tag.op("USING")(sa.literal_column("utf8mb4")))
        known = sa.exists().where(tag.c.name == name.collate("utf8mb4_bin"))
    elif connection.dialect.name == "postgresql":
        known = sa.exists().where(tag.c.name == leaf.c.biz_tag.collate("C"))
    marks = sa.select(
        leaf.c.biz_tag,
        sa.case((leaf.c.max_id < 0, 0), else_=leaf.c.max_id),
        sa.literal(MAX_NUMBER, sa.BigInteger),
        sa.literal("", sa.String),
    ).where(~known)
    connection.execute(tag.insert().from_select(["name", "mark", "limit", "halted"], marks))
    if connection.execute(sa.select(meta.c.id)).first() is None:
        connection.execute(meta.insert().values(id=1, uuid=str(uuid.uuid4())))
        if not was_leafs:
            layout = Layout()
            connection.execute(
                space.insert().values(
                    name="default",
                    layout=layout.describe(),
                    fingerprint=layout.fingerprint,
                    epoch_ms=layout.epoch_ms,
                    unit_ms=layout.unit_ms,
                )
            )
