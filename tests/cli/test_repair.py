import fcntl
import json
import socket
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from databases import Server
from goloves.cli.failures import Exit
from goloves.stores import checks
from goloves.stores.base import Mark
from goloves.stores.marks import Marks

Invoke = Callable[..., Result]

HERE = f"{socket.gethostname()} node 0"

LEAF = (
    "CREATE TABLE leaf_alloc (biz_tag varchar(128) NOT NULL PRIMARY KEY, max_id bigint NOT NULL DEFAULT 1, step int NOT"
    " NULL, description varchar(256), update_time timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP)"
)


class Store:
    """The embedded store in the directory of the test."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        connection = sqlite3.connect(self.file, isolation_level=None)
        try:
            return connection.execute(statement).fetchall()
        finally:
            connection.close()

    @property
    def uuid(self) -> str:
        return str(self.sql("SELECT uuid FROM goloves_meta")[0][0])

    def halt(self, reason: str = "a mark lies above it") -> None:
        self.sql(f"UPDATE goloves_meta SET halt = '{reason}'")

    def mark(self, node: str, tag: str, value: int) -> None:
        self.sql(f"INSERT INTO goloves_mark VALUES ('{node}', 'tag', '{tag}', -1, {value})")

    def owner(self, owner: str, worker: int, seen_ms: int = 1_800_000_000_000) -> None:
        self.sql(f"INSERT INTO goloves_worker VALUES ('default', {worker}, 1, 0, 5, 'n', '{owner}', {seen_ms})")


@pytest.fixture
def store(invoke: Invoke, tmp_path: Path) -> Store:
    invoke("migrate")
    return Store(tmp_path / "data" / "goloves.db")


def case(result: Result) -> dict[str, Any]:
    """The one store of `repair --json`."""
    [found] = json.loads(result.stdout)
    assert isinstance(found, dict)
    return found


def next_number(invoke: Invoke, tag: str = "default") -> int:
    return int(json.loads(invoke("tag", "show", tag, "--json").stdout)["next_number"])


def test_a_store_that_is_well_has_nothing_to_repair(invoke: Invoke, store: Store) -> None:
    result = invoke("repair")
    assert result.exit_code == Exit.DONE
    assert "nothing to repair" in result.stdout
    assert "goloves repair --restored" in result.stdout
    assert case(invoke("repair", "--json"))["plan"] is None
    assert next_number(invoke) == 1


def test_what_was_found_and_what_will_be_done_is_shown_before_anybody_is_asked(invoke: Invoke, store: Store) -> None:
    store.halt()
    store.mark("far node 0", "default", 5000)
    store.mark("far node 0", "pay", 70)
    store.owner("lost node 0 pid 12", 3)
    store.owner("lost node 0 pid 15", 4)
    store.owner("far node 0 pid 3", 5)
    store.owner("old node 0 pid 3", 6, seen_ms=1_799_000_000_000)
    result = invoke("repair", answer="n\n")
    assert result.exit_code == Exit.FAILED
    shown = result.stdout
    assert "halted: a mark lies above it" in shown
    assert "far node 0: 2 tags, 0 worker ids" in shown
    assert shown.count("lost node 0") == 1
    assert "(last seen 2027-01-15" in shown
    assert "old node 0" not in shown
    assert "the tag 'default' goes on at 10005000 or above" in shown
    assert "not in the store any more: 'pay'" in shown
    assert "every tag, deleted ones too, leaves out 10,000,000 numbers" in shown
    assert "the space 'default' gives no id until 20" in shown
    assert "10 min 10 s from now" in shown
    assert "Do this? [y/N]" in result.stderr
    assert next_number(invoke) == 1
    assert store.sql("SELECT halt FROM goloves_meta") == [("a mark lies above it",)]


def test_a_repair_that_is_agreed_to_is_done_and_leaves_nothing_to_repair(invoke: Invoke, store: Store) -> None:
    store.halt()
    store.mark("far node 0", "default", 5000)
    result = invoke("repair", "--margin", "7", answer="y\n")
    assert result.exit_code == Exit.DONE
    assert result.stdout.splitlines()[-1].startswith("Done. Nodes that run go on by themselves")
    assert next_number(invoke) == 5007
    assert store.sql("SELECT halt FROM goloves_meta") == [("",)]
    assert store.sql("SELECT floor > 0 FROM goloves_space") == [(1,)]
    assert "nothing to repair" in invoke("repair").stdout


def test_yes_asks_nothing_and_dry_run_changes_nothing(invoke: Invoke, store: Store) -> None:
    store.halt()
    dry = invoke("repair", "--dry-run", "--yes", "--json")
    assert dry.stderr == ""
    assert case(dry)["done"] is False
    assert case(dry)["plan"]["whole_store"] is True
    assert store.sql("SELECT halt FROM goloves_meta") == [("a mark lies above it",)]
    done = invoke("repair", "--yes", "--json")
    assert case(done) | {"plan": None} == case(dry) | {"plan": None, "done": True}
    assert store.sql("SELECT halt FROM goloves_meta") == [("",)]


def test_the_json_has_numbers_as_texts(invoke: Invoke, store: Store) -> None:
    store.mark("far node 0", "default", 2**60)
    found = case(invoke("repair", "--dry-run", "--json"))
    assert found["tags_behind"] == [{"tag": "default", "next_number": "1", "remembered": str(2**60)}]
    assert found["plan"]["tags"] == {"default": str(2**60)}
    assert found["nodes"] == {"far node 0": {"tags": 1, "workers": 0}}


def test_a_restored_store_is_repaired_on_a_person_s_word(invoke: Invoke, store: Store) -> None:
    assert invoke("repair", "--restored", "--yes").exit_code == Exit.DONE
    assert next_number(invoke) == 10_000_001


def test_the_marks_of_a_node_that_does_not_run_count(invoke: Invoke, store: Store, tmp_path: Path) -> None:
    marks = Marks()
    marks.open(tmp_path / "data" / "node-0")
    marks.rise(store.uuid, Mark("tag", "default", 900))
    marks.rise("another store", Mark("tag", "default", 10**12))
    running = case(invoke("repair", "--dry-run", "--json"))
    assert running["plan"] is None, "a node that runs tells the store by itself"
    marks.close()
    before = (tmp_path / "data" / "node-0" / "marks").read_bytes()
    found = case(invoke("repair", "--yes", "--json"))
    assert found["nodes"] == {HERE: {"tags": 1, "workers": 0}}
    assert next_number(invoke) == 10_000_900
    assert (tmp_path / "data" / "node-0" / "marks").read_bytes() == before


def test_a_restored_store_is_repaired_with_the_marks_of_each_machine_before_any_node_starts(
    invoke: Invoke, store: Store, tmp_path: Path
) -> None:
    """One machine's repair knows nothing of another's state directories: it says so, and theirs raise the rest."""
    for machine, number in (("data", 900), ("other", 14_000_000)):
        marks = Marks()
        marks.open(tmp_path / machine / "node-0")
        marks.rise(store.uuid, Mark("tag", "default", number))
        marks.close()
    first = invoke("repair", "--restored", "--yes")
    assert "only those with a state directory in data are counted" in first.stdout.replace("./", "")
    assert "run `goloves repair` too before any node starts" in first.stdout
    assert next_number(invoke) == 10_000_900, "below what the other machine's node was granted"
    there = ("--store", f"sqlite:///{store.file}", "--data-dir", str(tmp_path / "other"))
    assert "the tag 'default' goes on at 24000000 or above" in invoke("repair", "--yes", *there).stdout
    assert next_number(invoke) >= 24_000_000
    assert "nothing to repair" in invoke("repair").stdout


def test_marks_that_can_not_be_read_are_named(invoke: Invoke, store: Store, tmp_path: Path) -> None:
    state = tmp_path / "data" / "node-0"
    state.mkdir()
    (state / "marks").write_text("goloves marks 99\n")
    result = invoke("repair")
    assert f"the marks in {Path('data')}/node-0 can't be read" in result.stdout.replace("./", "")
    assert "written by another version" in result.stdout


def test_reading_a_state_directory_does_not_keep_a_node_from_starting(
    invoke: Invoke, store: Store, tmp_path: Path
) -> None:
    marks = Marks()
    marks.open(tmp_path / "data" / "node-0")
    marks.close()
    invoke("repair")
    with (tmp_path / "data" / "node-0" / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


# --- single tags ---


def test_a_halted_tag_is_repaired_alone(invoke: Invoke, store: Store) -> None:
    invoke("tag", "create", "order", "--start", "500")
    invoke("tag", "create", "pay", "--start", "600")
    for tag in ("order", "pay"):
        store.sql(f"UPDATE leaf_alloc SET max_id = 3 WHERE biz_tag = '{tag}'")
        store.sql(f"UPDATE goloves_tag SET halted = 'its next number was 3' WHERE name = '{tag}'")
    result = invoke("repair", "--tag", "order", "--yes")
    assert "halted: its next number was 3" in result.stdout
    assert "the tag 'order' goes on at 500 or above" in result.stdout
    assert "pay" not in result.stdout
    assert "pause" not in result.stdout
    assert (next_number(invoke, "order"), next_number(invoke, "pay")) == (500, 3)
    assert case(invoke("repair", "--yes", "--json"))["plan"]["whole_store"] is False
    assert (next_number(invoke, "pay"), next_number(invoke)) == (600, 1)
    assert "nothing to repair" in invoke("repair", "--tag", "order").stdout


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--tag", "nope"], Exit.NOT_FOUND, "there is no tag 'nope'"),
        (["--tag", "default", "--restored"], Exit.USAGE, "give one of the two"),
        (["--margin", "-1"], Exit.USAGE, "-1 is not in the range"),
    ],
)
def test_what_can_not_be_repaired_is_said(
    words: list[str], code: Exit, says: str, invoke: Invoke, store: Store
) -> None:
    result = invoke("repair", *words)
    assert result.exit_code == code
    assert says in result.stderr


def test_a_single_tag_can_not_go_on_in_a_halted_store(invoke: Invoke, store: Store) -> None:
    store.halt()
    result = invoke("repair", "--tag", "default", "--yes")
    assert result.exit_code == Exit.FAILED
    assert "the whole store is halted" in result.stderr


def test_a_limit_in_the_way_is_named_with_the_way_to_raise_it(invoke: Invoke, store: Store) -> None:
    invoke("tag", "set", "default", "--limit", "1000")
    store.halt()
    store.mark("far node 0", "default", 5000)
    result = invoke("repair", "--yes")
    assert "goloves tag set 'default' --limit 5000" in result.stderr
    assert store.sql("SELECT halt FROM goloves_meta") == [("a mark lies above it",)]
    invoke("tag", "set", "default", "--limit", "6000")
    result = invoke("repair", "--yes")
    assert "that uses up 'default'" in result.stdout


# --- what moved ---


def test_a_file_that_was_moved_is_bound_to_its_new_machine(
    invoke: Invoke, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "machine_id", lambda: "new")
    store.sql("UPDATE goloves_meta SET machine = 'the old one'")
    assert "belongs to another machine" in invoke("tag", "create", "order").stderr
    shown = invoke("repair", "--dry-run").stdout
    assert "only if its original is gone for good" in shown
    assert "--margin 0 leaves it at that, without a pause" in shown
    result = invoke("repair", "--margin", "0", "--yes")
    assert "gives no id until" not in result.stdout
    assert next_number(invoke) == 1
    assert "nothing to repair" in invoke("repair").stdout


def test_a_moved_file_whose_nodes_may_have_gone_on_skips_and_pauses(
    invoke: Invoke, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "machine_id", lambda: "new")
    store.sql("UPDATE goloves_meta SET machine = 'the old one'")
    assert "gives no id until" in invoke("repair", "--yes").stdout
    assert next_number(invoke) == 10_000_001


@pytest.mark.parametrize("kind", ["mariadb", "postgresql"])
def test_another_database_server_is_shown_and_taken_for_the_right_one(
    kind: str, invoke: Invoke, request: pytest.FixtureRequest
) -> None:
    server: Server = request.getfixturevalue(kind)
    url = server.fresh()
    database = url.rpartition("/")[2]
    invoke("migrate", "--store", url)
    assert "nothing to repair" in invoke("repair", "--store", url).stdout
    server.sql("UPDATE goloves_meta SET server = 'the old one'", database)
    found = case(invoke("repair", "--dry-run", "--json", "--store", url))
    assert found["other_server"]["was"] == "the old one"
    assert found["halted"] is None
    assert "it was the old one" in invoke("repair", "--yes", "--store", url).stdout
    assert server.sql("SELECT server FROM goloves_meta", database) == found["other_server"]["is"]
    assert "nothing to repair" in invoke("repair", "--store", url).stdout


@pytest.mark.parametrize("kind", ["mariadb", "postgresql"])
def test_r7_a_look_at_the_tags_neither_halts_a_store_on_another_server_nor_notes_that_server(
    kind: str, request: pytest.FixtureRequest, invoke: Invoke
) -> None:
    server: Server = request.getfixturevalue(kind)
    url = server.fresh()
    database = url.rpartition("/")[2]
    invoke("migrate", "--store", url)
    server.sql("UPDATE goloves_meta SET server = 'the old one'", database)
    for words in (("tag", "list"), ("tag", "show", "default")):
        assert "default" in invoke(*words, "--store", url).stdout
    assert server.sql("SELECT server, halt FROM goloves_meta", database).strip() == "the old one"


def test_where_servers_are_ignored_another_one_is_nothing_to_repair(invoke: Invoke, mariadb: Server) -> None:
    url = mariadb.fresh()
    invoke("migrate", "--store", url)
    mariadb.sql("UPDATE goloves_meta SET server = 'the old one'", url.rpartition("/")[2])
    Path("g.toml").write_text("[stores]\nfailover = 'ignore'\n")
    assert "nothing to repair" in invoke("repair", "--config", "g.toml", "--store", url).stdout


# --- spaces, several stores, Leaf's table ---


def test_each_space_pauses_for_its_own_window_and_a_lost_one_is_registered(invoke: Invoke, store: Store) -> None:
    Path("g.toml").write_text("[snowflake]\nmax_forward = 5\n[spaces.orders]\npreset = 'js53'\nwindow = 30\n")
    store.halt()
    shown = invoke("repair", "--config", "g.toml", "--yes").stdout
    assert "35 s from now" in shown
    assert "10 min 5 s from now" in shown
    assert store.sql("SELECT name FROM goloves_space WHERE floor > 0 ORDER BY name") == [("default",), ("orders",)]


def test_a_space_that_is_configured_otherwise_is_named(invoke: Invoke, store: Store) -> None:
    Path("g.toml").write_text("[spaces.default]\npreset = 'js53'\n")
    store.halt()
    assert "the space 'default' is time 41" in invoke("repair", "--config", "g.toml", "--dry-run").stdout


def test_two_stores_are_each_looked_at(invoke: Invoke, tmp_path: Path) -> None:
    Path("g.toml").write_text("[stores]\nsegments = 'sqlite:///a.db'\nwindows = 'sqlite:///b.db'\n")
    invoke("migrate", "--config", "g.toml")
    Store(tmp_path / "b.db").halt()
    cases = json.loads(invoke("repair", "--config", "g.toml", "--yes", "--json").stdout)
    assert [(Path(each["store"]).name, each["done"]) for each in cases] == [("a.db", False), ("b.db", True)]


def test_where_only_leaf_s_table_exists_it_says_what_a_repair_can_do(invoke: Invoke, tmp_path: Path) -> None:
    file = tmp_path / "leaf.db"
    leaf = Store(file)
    leaf.sql(LEAF)
    leaf.sql("INSERT INTO leaf_alloc (biz_tag, max_id, step) VALUES ('pay', 2001, 10)")
    words = ("--store", f"sqlite:///{file}")
    result = invoke("repair", *words)
    assert "only Leaf's table exists: there are no halts" in result.stdout
    assert "goloves migrate" in result.stdout
    assert "nothing to repair" in result.stdout
    marks = Marks()
    marks.open(tmp_path / "data" / "node-0")
    marks.rise(f"sqlite:///{file}", Mark("tag", "pay", 5000))
    marks.close()
    result = invoke("repair", "--yes", *words)
    assert "the tag 'pay' goes on at 10005000 or above" in result.stdout
    assert "gives no id" not in result.stdout
    assert "nodes that halted by themselves go on when they are restarted" in result.stdout
    assert leaf.sql("SELECT max_id FROM leaf_alloc") == [(10_005_000,)]


def test_marks_that_a_node_kept_before_a_migration_count_after_it(invoke: Invoke, tmp_path: Path) -> None:
    file = tmp_path / "leaf.db"
    leaf = Store(file)
    leaf.sql(LEAF)
    leaf.sql("INSERT INTO leaf_alloc (biz_tag, max_id, step) VALUES ('pay', 2001, 10)")
    marks = Marks()
    marks.open(tmp_path / "data" / "node-0")
    marks.rise(f"sqlite:///{file}", Mark("tag", "pay", 5000))
    marks.close()
    words = ("--store", f"sqlite:///{file}")
    invoke("migrate", *words)
    assert "goes on at 10005000 or above" in invoke("repair", "--yes", *words).stdout
    assert leaf.sql("SELECT mark FROM goloves_tag") == [(5000,)]


def test_a_long_list_of_tags_is_cut_for_people(invoke: Invoke, store: Store) -> None:
    for number in range(30):
        store.mark("far node 0", f"t{number}", 50)
    result = invoke("repair", "--dry-run")
    assert "and 10 more tags (--json shows all)" in result.stdout
    assert "and 10 more tags likewise" in result.stdout
    assert len(case(invoke("repair", "--dry-run", "--json"))["tags_behind"]) == 30
