import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from databases import Server
from goloves.cli.failures import Exit

Invoke = Callable[..., Result]


@pytest.fixture(autouse=True)
def store(invoke: Invoke) -> None:
    """A store in ./data, where the commands look for it."""
    assert invoke("migrate").exit_code == 0


def test_a_tag_is_created_shown_changed_and_deleted(invoke: Invoke) -> None:
    result = invoke("tag", "create", "order", "--step", "50", "--start", "7", "--description", "orders")
    assert result.stdout == "created the tag 'order'; its first number is 7\n"
    shown = json.loads(invoke("tag", "show", "order", "--json").stdout)
    assert shown.pop("updated") is not None
    assert shown == {
        "tag": "order",
        "next_number": "7",
        "step": 50,
        "limit": None,
        "left": None,
        "description": "orders",
        "halted": None,
    }
    result = invoke("tag", "set", "order", "--step", "60", "--limit", "1000", "--description", "of the shop")
    assert result.stdout == "changed the tag 'order'; running nodes notice within a minute\n"
    facts = dict(line.split("  ", 1) for line in invoke("tag", "show", "order").stdout.splitlines())
    assert {name: value.strip() for name, value in facts.items()} | {"updated": ""} == {
        "tag": "order",
        "next number": "7",
        "step": "60",
        "limit": "1000",
        "left": "993",
        "description": "of the shop",
        "updated": "",
        "halted": "",
    }
    assert invoke("tag", "delete", "order", "--yes").stdout.startswith("deleted the tag 'order'")
    assert invoke("tag", "show", "order").exit_code == Exit.NOT_FOUND


def test_create_and_set_write_json_on_demand(invoke: Invoke) -> None:
    assert json.loads(invoke("tag", "create", "a", "--json").stdout)["next_number"] == "1"
    assert json.loads(invoke("tag", "set", "a", "--step", "3", "--json").stdout)["step"] == 3


def test_tags_are_listed_in_the_order_of_their_names(invoke: Invoke) -> None:
    assert "exists from the start" in invoke("tag", "list").stdout
    for name in ("order", "Order", "über"):
        invoke("tag", "create", name)
    lines = invoke("tag", "list").stdout.splitlines()
    assert lines[0].split("  ")[0].strip() == "tag"
    assert [line.split()[0] for line in lines[2:]] == ["Order", "default", "order", "über"]
    assert [tag["tag"] for tag in json.loads(invoke("tag", "list", "--prefix", "o", "--json").stdout)] == ["order"]


def test_a_tag_whose_numbers_run_out_says_how_many_are_left(invoke: Invoke) -> None:
    for start, limit in ((899, 1000), (901, 1000), (1000, 1000)):
        invoke("tag", "create", f"t{start}", "--start", str(start), "--limit", str(limit))
    shown = invoke("tag", "list", "--prefix", "t").stdout.splitlines()[2:]
    assert [line.split()[3:] for line in shown] == [["used", "up"], [], ["99", "numbers", "left"]]
    assert json.loads(invoke("tag", "show", "t901", "--json").stdout)["left"] == "99"


def test_a_long_list_says_how_it_goes_on(invoke: Invoke) -> None:
    invoke("tag", "create", "order")
    result = invoke("tag", "list", "--most", "1")
    assert "order" not in result.stdout
    assert "goloves tag list --after 'default' goes on" in result.stderr
    rest = invoke("tag", "list", "--after", "default")
    assert "order" in rest.stdout
    assert rest.stderr == ""


def test_an_empty_list_says_so(invoke: Invoke) -> None:
    assert "no tags" in invoke("tag", "list", "--prefix", "x").stderr
    invoke("tag", "delete", "default", "--yes")
    assert "no tags here; `goloves tag create` makes one" in invoke("tag", "list").stderr
    assert json.loads(invoke("tag", "list", "--json").stdout) == []


def test_a_deleted_tag_goes_on_above_its_old_numbers(invoke: Invoke) -> None:
    invoke("tag", "create", "order", "--start", "500")
    invoke("tag", "delete", "order", "--yes")
    result = invoke("tag", "create", "order")
    why = "it existed before, or a failover or a repair left numbers out"
    assert result.stdout == f"created the tag 'order'; {why}, so its first number is 500\n"


def test_deleting_asks_first(invoke: Invoke) -> None:
    result = invoke("tag", "delete", "default", answer="n\n")
    assert result.exit_code == Exit.FAILED
    assert "Delete the tag 'default', whose next number is 1? [y/N]" in result.stderr
    assert invoke("tag", "show", "default").exit_code == 0
    assert invoke("tag", "delete", "default", answer="y\n").exit_code == 0


@pytest.mark.parametrize("words", [["show", "ordr"], ["set", "ordr", "--step", "3"], ["delete", "ordr", "--yes"]])
def test_an_unknown_tag_comes_with_a_suggestion(words: list[str], invoke: Invoke) -> None:
    invoke("tag", "create", "order")
    invoke("tag", "create", "orders")
    result = invoke("tag", *words)
    assert result.exit_code == Exit.NOT_FOUND
    assert result.stderr == "error: there is no tag 'ordr'; did you mean 'order' or 'orders'?\n"


def test_an_unknown_tag_that_resembles_none_leads_to_the_list(invoke: Invoke) -> None:
    assert invoke("tag", "show", "x").stderr == (
        "error: there is no tag 'x'; `goloves tag list` shows those that exist\n"
    )


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (
            ["create", "default"],
            Exit.FAILED,
            "there is a tag 'default' already; change it with: goloves tag",
        ),
        (["create", "a\nb"], Exit.USAGE, "holds U+000A"),
        (["create", "x" * 129], Exit.USAGE, "has 129 bytes of UTF-8; at most 128"),
        (["create", "a", "--step", "0"], Exit.USAGE, "the step is 0; it lies between 1 and"),
        (["create", "a", "--step", "x"], Exit.USAGE, "'x' is not a valid integer"),
        (["create", "a", "--start", "-1"], Exit.USAGE, "the first number is -1"),
        (["create", "a", "--limit", "9223372036854775808"], Exit.USAGE, "limit"),
        (["set", "default"], Exit.USAGE, "say what to change: --step, --limit or --description"),
        (["set", "default", "--limit", "0"], Exit.USAGE, "limit"),
        (["list", "--most", "0"], Exit.USAGE, "0 is not in the range x>=1"),
    ],
)
def test_what_cannot_be_done_is_said(words: list[str], code: Exit, says: str, invoke: Invoke) -> None:
    result = invoke("tag", *words)
    assert result.exit_code == code, result.stderr
    assert says in result.stderr
    assert result.stdout == ""


def test_a_store_that_does_not_exist_is_named_with_the_way_to_make_it(invoke: Invoke, tmp_path: Path) -> None:
    result = invoke("tag", "list", "--data-dir", "elsewhere")
    assert result.exit_code == Exit.FAILED
    assert f"there is no store at {tmp_path}/elsewhere/goloves.db; make it with: goloves migrate" in result.stderr
    assert not (tmp_path / "elsewhere").exists()


def test_tags_of_leaf_s_own_table_are_shown_and_changed_but_not_made(invoke: Invoke, mariadb: Server) -> None:
    url = mariadb.fresh()
    mariadb.sql(
        "CREATE TABLE leaf_alloc (biz_tag varchar(128) NOT NULL DEFAULT '', max_id bigint NOT NULL DEFAULT 1,"
        " step int NOT NULL, description varchar(256), update_time timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP,"
        " PRIMARY KEY (biz_tag)) ENGINE=InnoDB; INSERT INTO leaf_alloc (biz_tag, max_id, step)"
        " VALUES ('pay', 2001, 10)",
        url.rpartition("/")[2],
    )
    assert "2001" in invoke("tag", "show", "pay", "--store", url).stdout
    assert invoke("tag", "set", "pay", "--step", "20", "--store", url).exit_code == 0
    result = invoke("tag", "create", "order", "--store", url)
    assert result.exit_code == Exit.FAILED
    assert "needs Goloves' own tables" in result.stderr
    assert "goloves migrate" in result.stderr
