"""Leaf's own table, taken over as it stands: what a node may do on it, and what `goloves migrate` changes."""

import asyncio
from pathlib import Path

import pytest

from databases import Server
from goloves.core.grants import Range
from goloves.core.layout import Layout
from goloves.errors import NeedsMigration, StoreRefused, StoreWentBackwards, TagExists, TagUsedUp, UnknownTag
from goloves.stores import make_store
from goloves.stores.base import Mark, NewTag, Space, TagChange
from goloves.stores.guard import SegmentGuard
from goloves.stores.marks import Marks
from stores.backends import PATIENT, Backend, Memory, Served, Sql, Sqlite
from stores.contract import a_claim, assert_disjoint
from stores.halts import open_halted

LEAFS_SCRIPT = """
CREATE TABLE `leaf_alloc` (
  `biz_tag` varchar(128)  NOT NULL DEFAULT '',
  `max_id` bigint(20) NOT NULL DEFAULT '1',
  `step` int(11) NOT NULL,
  `description` varchar(256)  DEFAULT NULL,
  `update_time` timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
  PRIMARY KEY (`biz_tag`)
) ENGINE=InnoDB
"""

PORTED = """
CREATE TABLE leaf_alloc (
  biz_tag varchar(128) NOT NULL DEFAULT '' PRIMARY KEY,
  max_id bigint NOT NULL DEFAULT 1,
  step int NOT NULL,
  description varchar(256) DEFAULT NULL,
  update_time timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP
)
"""


@pytest.fixture(params=["memory", "sqlite", "mariadb", "postgresql"])
def leaf(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    """A database with nothing but Leaf's table, and three tags in it."""
    backend: Backend
    if request.param == "memory":
        backend = Memory()
        assert isinstance(backend, Memory)
        backend.data.only_leaf = True
        for rows in (backend.data.leaf, backend.data.tags, backend.data.spaces):
            rows.clear()
    elif request.param == "sqlite":
        backend = Sqlite(tmp_path)
        backend.sql(PORTED)
    else:
        backend = Served(request.getfixturevalue(request.param))
        backend.sql(LEAFS_SCRIPT if request.param == "mariadb" else PORTED)
    backend.insert("order", 1, 2000)
    backend.insert("Zebra", 5000, 10)
    backend.insert("apple", 70, 10)
    return backend


@pytest.fixture
def maria(mariadb: Server) -> Served:
    """A MariaDB database."""
    return Served(mariadb)


async def test_r4_segments_serve_from_leafs_table_alone(leaf: Backend) -> None:
    first, second = await leaf.nodes(2)
    assert await first.allocate("order", 2000) == Range("order", 1, 2001)
    assert await second.allocate("order", 500) == Range("order", 2001, 2501)
    assert (await second.allocate("Zebra", 10)).start == 5000
    with pytest.raises(UnknownTag):
        await first.allocate("zebra", 10)
    assert not first.has_marks
    assert first.identity == second.identity
    assert "test" in first.identity or "memory" in first.identity or "sqlite" in first.identity
    await leaf.close()


async def test_r4_tags_are_read_without_marks(leaf: Backend) -> None:
    store = await leaf.node()
    tag = (await store.read_tags(["order", "nobody"]))["order"]
    assert (tag.max_id, tag.step, tag.mark, tag.halted) == (1, 2000, None, "")
    assert [tag.name for tag in await store.list_tags()] == ["Zebra", "apple", "order"]
    assert [tag.name for tag in await store.list_tags(after="Zebra", most=1)] == ["apple"]
    assert await store.ensure_tag(NewTag("order")) == tag
    await leaf.close()


async def test_r4_what_needs_goloves_own_tables_says_so(leaf: Backend) -> None:
    store = await leaf.node()
    space = Space("default", Layout())
    for call in (
        store.create_tag(NewTag("new")),
        store.ensure_tag(NewTag("new")),
        store.delete_tag("order"),
        store.change_tag("order", TagChange(limit=5)),
        store.halt("a reason"),
        store.write_marks("n", [Mark("tag", "order", 5)]),
        store.raise_floor("default", 5),
        store.raise_fences([Mark("worker", "default", 1, 1)]),
        store.open_space(space),
        store.claim(a_claim(space, 5)),
    ):
        with pytest.raises(NeedsMigration, match="goloves migrate"):
            await call
    assert await store.read_halt() == ""
    assert await store.read_marks() == {}
    assert await store.recent_owners() == []
    await leaf.close()


async def test_r4_a_step_can_be_changed_in_leafs_table(leaf: Backend) -> None:
    store = await leaf.node()
    changed = await store.change_tag("order", TagChange(step=7, description="orders"))
    assert (changed.step, changed.description) == (7, "orders")
    with pytest.raises(UnknownTag):
        await store.change_tag("nobody", TagChange(step=7))
    await leaf.close()


async def test_r2_numbers_end_in_leafs_table_too(leaf: Backend) -> None:
    store = await leaf.node()
    leaf.insert("high", 2**63 - 3)
    assert await store.allocate("high", 1000) == Range("high", 2**63 - 3, 2**63 - 2)
    with pytest.raises(TagUsedUp):
        await store.allocate("high", 2, exact=True)
    await leaf.close()


async def test_p7_a_table_that_was_leafs_never_gets_a_tag_named_default(leaf: Backend) -> None:
    if not isinstance(leaf, Sql):
        return
    await leaf.migrate()
    store = await leaf.node()
    assert store.has_marks
    assert await store.read_tags(["default"]) == {}
    with pytest.raises(UnknownTag):
        await store.allocate("default", 1)
    await leaf.close()


async def test_r4_the_migration_leaves_leafs_table_as_it_is_and_gives_each_tag_its_mark(leaf: Backend) -> None:
    if not isinstance(leaf, Sql):
        return
    rows = leaf.sql("SELECT biz_tag, max_id, step FROM leaf_alloc ORDER BY max_id")
    form = leaf.sql("SHOW CREATE TABLE leaf_alloc") if leaf.name == "mariadb" else ""
    await leaf.migrate()
    await leaf.migrate()
    assert leaf.sql("SELECT biz_tag, max_id, step FROM leaf_alloc ORDER BY max_id") == rows
    if form:
        assert leaf.sql("SHOW CREATE TABLE leaf_alloc") == form
    store = await leaf.node()
    assert {tag.name: tag.mark for tag in await store.list_tags()} == {"order": 1, "apple": 70, "Zebra": 5000}
    leaf.set_number("Zebra", 4000)
    with pytest.raises(StoreWentBackwards, match="4000, below 5000"):
        await store.allocate("Zebra", 1)
    await leaf.close()


@pytest.mark.parametrize("charset", ["utf8mb4", "utf8mb3", "latin1"])
async def test_r1_mariadbs_default_collation_takes_no_name_for_another(maria: Served, charset: str) -> None:
    maria.sql(f"{LEAFS_SCRIPT} DEFAULT CHARSET={charset}")
    maria.insert("order", 1)
    maria.insert("é", 10)
    assert maria.sql("SELECT COUNT(*) FROM leaf_alloc WHERE biz_tag = 'oRDer  '") == "1"
    for migrated in (False, True):
        if migrated:
            await maria.migrate()
        store = await maria.node()
        for name in ("ORDER", "order ", "oRDer  ", "órder", "e", "É"):
            with pytest.raises(UnknownTag):
                await store.allocate(name, 1)
            with pytest.raises(UnknownTag):
                await store.change_tag(name, TagChange(step=5))
            assert await store.read_tags([name]) == {}
        assert await store.allocate("order", 1)
        assert (await store.allocate("é", 1)).start >= 10
        assert len(await store.list_tags(prefix="é")) == 1
    await maria.close()


async def test_r1_a_name_that_leafs_table_can_not_tell_from_another_is_not_created(maria: Served) -> None:
    maria.sql(LEAFS_SCRIPT)
    maria.insert("order", 1)
    await maria.migrate()
    store = await maria.node()
    with pytest.raises(TagExists, match=r"'ORDER'.*'order'"):
        await store.create_tag(NewTag("ORDER"))
    assert (await store.allocate("order", 1)).start == 1
    await maria.close()


async def test_leafs_nodes_and_ours_on_one_table_never_get_the_same_numbers(maria: Served) -> None:
    maria.sql(LEAFS_SCRIPT)
    maria.insert("order", 1, 7)
    await maria.migrate()
    ours = await maria.nodes(2)
    leafs = make_store(maria.url, PATIENT)
    await leafs.open()

    def leafs_own_way(connection: object) -> Range:
        execute = connection.exec_driver_sql  # type: ignore[attr-defined]
        execute("UPDATE leaf_alloc SET max_id = max_id + step WHERE biz_tag = 'order'")
        max_id, step = execute("SELECT max_id, step FROM leaf_alloc WHERE biz_tag = 'order'").one()
        return Range("order", max_id - step, max_id)

    async def as_leaf() -> list[Range]:
        return [await leafs._run(leafs_own_way) for _ in range(30)]

    async def as_goloves(store: object) -> list[Range]:
        return [await store.allocate("order", 5) for _ in range(30)]  # type: ignore[attr-defined]

    results = await asyncio.gather(as_leaf(), *map(as_goloves, ours))
    ranges = [granted for some in results for granted in some]
    assert len(ranges) == 90
    assert_disjoint(ranges)
    await leafs.close()
    await maria.close()


async def test_r2_an_absurd_number_in_leafs_table_is_refused_when_it_is_used(leaf: Backend) -> None:
    store = await leaf.node()
    leaf.insert("broken", -7)
    with pytest.raises(StoreRefused, match="max_id of the tag 'broken' is -7"):
        await store.allocate("broken", 1)
    await leaf.close()


async def test_r5_a_node_that_leafs_table_shows_set_back_asks_no_more_and_halts_the_store_once_it_is_migrated(
    leaf: Backend,
) -> None:
    marks = Marks()
    node = SegmentGuard(leaf.make(), marks, "node 1")
    await node.open()
    assert await node.allocate("order", 2000) == Range("order", 1, 2001)
    leaf.set_number("order", 1)
    for size in (1000, 4000):
        with pytest.raises(StoreWentBackwards, match=r"stop all nodes, run `goloves repair`"):
            await node.allocate("order", size)
    look = await leaf.node()
    assert (await look.read_tags(["order"]))["order"].max_id == 1
    await node.close()
    await look.close()
    if isinstance(leaf, Sql):
        await leaf.migrate()
        again = SegmentGuard(leaf.make(), marks, "node 1")
        await open_halted(again)
        with pytest.raises(StoreWentBackwards, match=r"up to 1, below 2001"):
            await again.allocate("Zebra", 10)
        await again.close()
    await leaf.close()
