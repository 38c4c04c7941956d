import json
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from databases import Server, free_port
from goloves.cli.failures import Exit
from goloves.stores import checks

Invoke = Callable[..., Result]

LEAF = (
    "CREATE TABLE leaf_alloc (biz_tag varchar(128) NOT NULL DEFAULT '', max_id bigint NOT NULL DEFAULT 1, step int NOT"
    " NULL, description varchar(256), update_time timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP, PRIMARY KEY (biz_tag))"
)


@pytest.fixture(params=["mariadb", "postgresql"])
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(request.param)
    return found


def findings(result: Result) -> dict[str, tuple[str, str]]:
    """What `check --json` found, by what was looked at: state and detail, the worst of several."""
    order = ["ok", "warning", "failed"]
    found: dict[str, tuple[str, str]] = {}
    for each in json.loads(result.stdout)["findings"]:
        before = found.get(each["what"], ("ok", ""))
        if order.index(each["state"]) >= order.index(before[0]):
            found[each["what"]] = (each["state"], each["detail"])
    return found


# --- migrate ---


def test_migrate_makes_the_embedded_store_and_may_be_repeated(invoke: Invoke, tmp_path: Path) -> None:
    where = f"sqlite:///{tmp_path}/data/goloves.db"
    assert invoke("migrate").stdout == f"{where} has the tables of this version now\n"
    assert invoke("migrate").stdout == f"{where} has the newest tables already; nothing was changed\n"


def test_migrate_makes_the_tables_in_a_database(invoke: Invoke, server: Server) -> None:
    url = server.fresh()
    assert invoke("migrate", "--store", url).stdout.endswith("has the tables of this version now\n")
    assert invoke("migrate", "--store", url).stdout.endswith("nothing was changed\n")
    assert [tag["tag"] for tag in json.loads(invoke("tag", "list", "--json", "--store", url).stdout)] == ["default"]


def test_migrate_leaves_leaf_s_table_as_it_is_and_adds_ours(invoke: Invoke, server: Server) -> None:
    url = server.fresh()
    database = url.rpartition("/")[2]
    server.sql(f"{LEAF}; INSERT INTO leaf_alloc (biz_tag, max_id, step) VALUES ('pay', 2001, 10)", database)
    if server.name == "postgresql":
        server.sql("ALTER TABLE leaf_alloc OWNER TO goloves", database)
    assert "beside leaf_alloc now; restart the nodes" in invoke("migrate", "--store", url).stdout
    tags = json.loads(invoke("tag", "list", "--json", "--store", url).stdout)
    assert [(tag["tag"], tag["next_number"]) for tag in tags] == [("pay", "2001")]


def test_migrate_makes_both_stores_where_they_differ(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "g.toml").write_text("[stores]\nsegments = 'sqlite:///a.db'\nwindows = 'sqlite:///b.db'\n")
    lines = invoke("migrate", "--config", "g.toml").stdout.splitlines()
    assert [line.split()[0] for line in lines] == [f"sqlite:///{tmp_path}/{name}.db" for name in "ab"]


def test_migrate_says_what_is_missing_when_it_may_not_make_tables(invoke: Invoke, server: Server) -> None:
    url = server.fresh()
    database = url.rpartition("/")[2]
    if server.name == "mariadb":
        server.sql(f"CREATE USER IF NOT EXISTS newcomer IDENTIFIED BY 'x'; GRANT SELECT ON {database}.* TO newcomer")
    else:
        server.sql("DROP ROLE IF EXISTS newcomer; CREATE ROLE newcomer LOGIN PASSWORD 'x'", database)
    result = invoke("migrate", "--store", server.url(database, user="newcomer", password="x"))
    assert result.exit_code == Exit.FAILED
    assert "grant" in result.stderr.lower()


# --- check ---


def test_check_looks_at_everything_and_changes_nothing(invoke: Invoke, tmp_path: Path) -> None:
    result = invoke("check", "--json")
    assert result.exit_code == 0
    assert findings(result)["store of segments and windows"] == (
        "ok",
        f"sqlite:///{tmp_path}/data/goloves.db (the first start makes it)",
    )
    assert list(tmp_path.iterdir()) == []
    invoke("migrate")
    found = findings(invoke("check", "--json"))
    assert {state for state, _ in found.values()} == {"ok"}
    assert found["tags"] == ("ok", "1 tags")


def test_check_is_readable_for_people(invoke: Invoke) -> None:
    invoke("migrate")
    lines = invoke("check").stdout.splitlines()
    assert len(lines) >= 4
    assert all(line.startswith("✓ ") for line in lines)


def test_check_refuses_a_missing_store_where_others_could_reach_the_service(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "g.toml").write_text("[http]\nlisten = ['0.0.0.0:8080']\n")
    result = invoke("check", "--config", "g.toml")
    assert result.exit_code == Exit.FAILED
    assert "there is no store at" in result.stdout
    assert "this can't be started as it is" in result.stderr


def test_check_compares_the_clocks_of_machine_and_store(invoke: Invoke, server: Server) -> None:
    url = server.fresh()
    invoke("migrate", "--store", url)
    state, detail = findings(invoke("check", "--json", "--store", url))["clock"]
    assert state == "ok"
    assert "this machine's clock is 0." in detail


def test_check_warns_of_a_clock_that_is_wrong(invoke: Invoke, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    url = server.fresh()
    invoke("migrate", "--store", url)
    monkeypatch.setattr("goloves.cli.stores.now", lambda: time.time() - 3600)
    state, detail = findings(invoke("check", "--json", "--store", url))["clock"]
    assert state == "warning"
    assert "behind the store's; set the wrong one right" in detail


def test_check_warns_where_only_leaf_s_table_exists(invoke: Invoke, server: Server) -> None:
    url = server.fresh()
    database = url.rpartition("/")[2]
    server.sql(LEAF, database)
    if server.name == "postgresql":
        server.sql("ALTER TABLE leaf_alloc OWNER TO goloves", database)
    found = findings(invoke("check", "--json", "--store", url))
    assert found["store of segments and windows"][0] == "warning"
    assert "`goloves migrate`" in found["store of segments and windows"][1]
    assert found["tags"][1] == "none yet; make one with: goloves tag create NAME"


def test_check_names_a_halted_store(invoke: Invoke, tmp_path: Path) -> None:
    invoke("migrate")
    with sqlite3.connect(tmp_path / "data" / "goloves.db") as database:
        database.execute("UPDATE goloves_meta SET halt = 'a mark lies above it'")
    database.close()
    state, detail = findings(invoke("check", "--json"))["store of segments and windows"]
    assert state == "failed"
    assert detail == "it is halted: a mark lies above it; look into it, then run: goloves repair"


def test_check_compares_the_layouts_with_those_in_the_store_and_registers_none(invoke: Invoke, tmp_path: Path) -> None:
    invoke("migrate")
    (tmp_path / "g.toml").write_text("[spaces.default]\npreset = 'js53'\n[spaces.orders]\n")
    found = findings(invoke("check", "--json", "--config", "g.toml"))
    assert found["space orders"] == ("ok", "the first start registers it")
    assert found["space default"][0] == "ok"
    assert found["space default"][1].startswith("no id was issued yet: it becomes time 38, worker 7")
    with sqlite3.connect(tmp_path / "data" / "goloves.db") as database:
        database.execute("INSERT INTO goloves_worker VALUES ('default', 1, 1, 0, 5, 'n', 'o', 0)")
    state, detail = findings(invoke("check", "--json", "--config", "g.toml"))["space default"]
    assert state == "failed"
    assert "was registered with the layout time 41" in detail
    assert database.execute("SELECT name FROM goloves_space").fetchall() == [("default",)]
    database.close()
    assert findings(invoke("check", "--json"))["space default"][0] == "ok"


def test_check_names_a_file_that_was_moved_and_binds_it_to_nothing(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "machine_id", lambda: "here")
    invoke("migrate")
    assert findings(invoke("check", "--json"))["store of segments and windows"][0] == "ok"
    with sqlite3.connect(tmp_path / "data" / "goloves.db") as database:
        assert database.execute("SELECT machine FROM goloves_meta").fetchall() == [("",)]
        database.execute("UPDATE goloves_meta SET machine = 'there'")
    database.close()
    state, detail = findings(invoke("check", "--json"))["store of segments and windows"]
    assert state == "failed"
    assert "it belongs to another machine" in detail
    assert "goloves repair" in detail


@pytest.mark.parametrize(
    ("failover", "state", "says"),
    [("halt", "failed", "halts it"), ("skip", "warning", "skips failover_gap"), ("ignore", "ok", "://")],
)
def test_check_names_a_server_that_became_another_and_halts_nothing(
    failover: str, state: str, says: str, invoke: Invoke, server: Server, tmp_path: Path
) -> None:
    url = server.fresh()
    database = url.rpartition("/")[2]
    invoke("migrate", "--store", url)
    server.sql("UPDATE goloves_meta SET server = 'the old one'", database)
    (tmp_path / "g.toml").write_text(f"[stores]\nfailover = '{failover}'\n")
    found = findings(invoke("check", "--json", "--config", "g.toml", "--store", url))
    assert found["store of segments and windows"][0] == state
    assert says in found["store of segments and windows"][1]
    assert server.sql("SELECT server, halt FROM goloves_meta", database).split("\t") in (
        ["the old one", ""],
        ["the old one"],
    )


def test_check_names_a_halted_tag(invoke: Invoke, tmp_path: Path) -> None:
    invoke("migrate")
    with sqlite3.connect(tmp_path / "data" / "goloves.db") as database:
        database.execute("UPDATE goloves_tag SET halted = 'its next number was 1' WHERE name = 'default'")
    database.close()
    assert findings(invoke("check", "--json"))["tag default"] == ("warning", "halted: its next number was 1")
    assert "halted: its next number was 1" in invoke("tag", "list").stdout


def test_check_looks_at_the_data_directory(invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    found = findings(invoke("check", "--json", "--data-dir", "file", "--store", "sqlite:///x.db"))
    assert found["data directory"] == ("failed", "file is no directory; name another with --data-dir")
    # As root every directory can be written: the question is answered in its place.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    state, detail = findings(invoke("check", "--json"))["data directory"]
    assert state == "failed"
    assert "can't be written by this user" in detail


# --- databases that can't be used ---


@pytest.mark.parametrize("words", [["check"], ["migrate"], ["tag", "list"]])
def test_a_wrong_password_is_said_without_showing_it(words: list[str], invoke: Invoke, server: Server) -> None:
    url = server.fresh()
    wrong = server.url(url.rpartition("/")[2], password="geheim")
    result = invoke(*words, "--store", wrong)
    assert result.exit_code == Exit.FAILED
    assert "password" in result.output
    assert "geheim" not in result.output


@pytest.mark.parametrize("words", [["check"], ["tag", "list"]])
def test_missing_tables_are_said_with_the_way_to_make_them(words: list[str], invoke: Invoke, server: Server) -> None:
    result = invoke(*words, "--store", server.fresh())
    assert result.exit_code == Exit.FAILED
    assert "has no tables yet; make them with: goloves migrate" in result.output


def test_a_database_that_does_not_exist_is_named(invoke: Invoke, server: Server) -> None:
    result = invoke("tag", "list", "--store", server.url("test_nowhere"))
    assert result.exit_code == Exit.FAILED
    assert "test_nowhere" in result.stderr


@pytest.mark.parametrize("scheme", ["mysql", "postgresql"])
def test_a_database_that_is_away_is_said_and_worth_another_try(scheme: str, invoke: Invoke, tmp_path: Path) -> None:
    url = f"{scheme}://u:geheim@127.0.0.1:{free_port()}/d"
    result = invoke("tag", "list", "--store", url)
    assert result.exit_code == Exit.UNAVAILABLE
    assert "geheim" not in result.output
    assert invoke("migrate", "--store", url).exit_code == Exit.UNAVAILABLE
    checked: Any = findings(invoke("check", "--json", "--store", url))["store of segments and windows"]
    assert checked[0] == "failed"
    assert checked[1].endswith("(a node would start, and wait for it)")
