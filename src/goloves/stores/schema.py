"""The tables, as queries see them. The migrations make them; a test holds the two together.

Rules:
1. `leaf_alloc` is Leaf's, column for column: an existing one is used as it stands.
2. What Goloves adds lives in tables of its own, `goloves_…`. A node never changes a table's form.
3. Names are compared byte for byte. Numbers are signed 64-bit integers.
"""

from sqlalchemy import BigInteger, Column, DateTime, Index, Integer, MetaData, SmallInteger, String, Table

from goloves.core.names import MAX_NAME_BYTES

VERSION = "0002"
"""The revision that this version of Goloves works with: the newest in `migrations/versions`."""

REVISION_TABLE = "goloves_revision"
"""Where alembic keeps the revision; column `version_num`. A store without it has revision 0001."""

LEAST_TABLE = "goloves_version"
"""Which revision a Goloves must know at least to use these tables; column `version_num`. A migration that only adds
leaves it alone, so that nodes of the version before go on, and start, beside those of the new one."""

META_ID = 1
"""`goloves_meta` has this one row."""

MAX_REASON = 1000
"""Characters of a reason that are kept; a longer one is cut."""

MAX_OWNER = 255
"""Characters of an owner or node that are kept; a longer one is cut."""

metadata = MetaData()

leaf = Table(
    "leaf_alloc",
    metadata,
    Column("biz_tag", String(MAX_NAME_BYTES), primary_key=True),
    Column("max_id", BigInteger, nullable=False),
    Column("step", Integer, nullable=False),
    Column("description", String(256)),
    Column("update_time", DateTime, nullable=False),
)

meta = Table(
    "goloves_meta",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("uuid", String(36), nullable=False),
    Column("halt", String(MAX_REASON), nullable=False),
    Column("skipped", BigInteger, nullable=False),
    Column("machine", String(64), nullable=False),
    Column("server", String(200), nullable=False),
    Column("repairs", BigInteger, nullable=False),
)
"""`skipped`: how many numbers each tag has to leave out in all, after failovers and repairs (R7). `machine`: the
machine that an embedded store is bound to (R8). `server`: which server this is (R7). Empty: not known. `repairs`:
each repair that lifts a halt raises it, by a random amount (R6)."""

tag = Table(
    "goloves_tag",
    metadata,
    Column("name", String(MAX_NAME_BYTES), primary_key=True),
    Column("mark", BigInteger, nullable=False),
    Column("limit", BigInteger, nullable=False),
    Column("halted", String(MAX_REASON), nullable=False),
    Column("skipped", BigInteger, nullable=False),
)
"""One row per name, never deleted: without a row in `leaf_alloc` it is the tombstone of a deleted tag (R4). `skipped`:
how many of the numbers that `goloves_meta` says to leave out this tag has left out; the next grant leaves out the
rest."""

mark = Table(
    "goloves_mark",
    metadata,
    Column("node", String(MAX_OWNER), primary_key=True),
    Column("kind", String(8), primary_key=True),
    Column("name", String(MAX_NAME_BYTES), primary_key=True),
    Column("worker", Integer, primary_key=True, autoincrement=False),
    Column("value", BigInteger, nullable=False),
)

space = Table(
    "goloves_space",
    metadata,
    Column("name", String(MAX_NAME_BYTES), primary_key=True),
    Column("layout", String(200), nullable=False),
    Column("fingerprint", String(64), nullable=False),
    Column("epoch_ms", BigInteger, nullable=False),
    Column("unit_ms", Integer, nullable=False),
    Column("floor", BigInteger, nullable=False),
    Column("fence", BigInteger, nullable=False),
    Column("longest", BigInteger, nullable=False),
)
"""`layout` is for people; `fingerprint` is compared (W9). `floor` holds for all worker ids, in units. `fence`: that of
worker ids without a row (R6). `longest`: units of the longest window that was ever claimed (W6)."""

worker = Table(
    "goloves_worker",
    metadata,
    Column("space", String(MAX_NAME_BYTES), primary_key=True),
    Column("worker", Integer, primary_key=True, autoincrement=False),
    Column("fence", BigInteger, nullable=False),
    Column("start", BigInteger, nullable=False),
    Column("floor", BigInteger, nullable=False),
    Column("nonce", String(32), nullable=False),
    Column("owner", String(MAX_OWNER), nullable=False),
    Column("seen_ms", BigInteger, nullable=False),
    Index("goloves_worker_floor", "space", "floor"),
    Index("goloves_worker_nonce", "space", "nonce"),
)
"""Rows exist only for worker ids that were ever used. `start`, `floor`: of the current window, units since the
epoch."""
