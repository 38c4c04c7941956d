"""`goloves serve` as a person meets it: what it says, what it refuses, how it starts, stops and goes on."""

import json
import re
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from databases import Server, free_port
from goloves import __version__
from goloves.cli.failures import Exit
from system.serving import Start

LEAF = (
    "CREATE TABLE leaf_alloc (biz_tag varchar(128) NOT NULL DEFAULT '', max_id bigint NOT NULL DEFAULT 1, step int NOT"
    " NULL, description varchar(256), update_time timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP, PRIMARY KEY (biz_tag));"
    " INSERT INTO leaf_alloc (biz_tag, max_id, step) VALUES ('pay', 2001, 10)"
)


def goloves(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "goloves", *words], cwd=cwd, capture_output=True, text=True, check=False, timeout=60
    )


# --- a person's first minute ---


def test_the_first_start_says_where_it_listens_what_it_uses_and_what_to_try(start: Start, tmp_path: Path) -> None:
    server = start()
    server.ready()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", server.urls[0])
    server.says(rf"^  store    sqlite:///{re.escape(str(tmp_path))}/data/goloves\.db \(new\)$")
    server.says(r"^  stop     Ctrl-C$")
    assert f"Goloves {__version__} " in server.said
    answers = []
    for line in re.findall(r"^  (?:try    )? +(curl .+)$", server.said, re.MULTILINE):
        words = shlex.split(line)
        method = words[words.index("-X") + 1] if "-X" in words else "GET"
        answer = httpx2.request(method, words[-1])
        assert answer.status_code == 200, line
        answers.append(answer.text)
    assert answers[0] == "1"
    assert int(answers[1]) > 2**60
    assert answers[2] == '{"ids":["2"]}'
    assert server.said.rstrip().endswith("Ctrl-C")


def test_what_it_suggests_for_a_tag_of_one_s_own_works_while_it_runs(start: Start, tmp_path: Path) -> None:
    server = start()
    server.ready()
    suggested = re.search(r"^ +goloves (tag create order)$", server.said, re.MULTILINE)
    assert suggested is not None
    assert goloves(*suggested[1].split(), cwd=tmp_path).returncode == 0
    assert server.ids(3, "order") == [1, 2, 3]
    asked = goloves("next", "order", "--count", "2", "--server", server.urls[0], cwd=tmp_path)
    assert asked.stdout == "4\n5\n"
    unknown = goloves("next", "ordr", "--server", server.urls[0], cwd=tmp_path)
    assert unknown.returncode == Exit.NOT_FOUND
    assert "did you mean 'order'" in unknown.stderr
    snowflake = goloves("next", "--space", "default", "--server", server.urls[0], cwd=tmp_path).stdout.strip()
    decoded = json.loads(goloves("decode", snowflake, "--json", cwd=tmp_path).stdout)
    assert decoded["time"].startswith("20")
    assert decoded == server.get(f"/v1/snowflakes/default/ids/{snowflake}").json()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_it_stops_cleanly_and_the_next_start_goes_on_above(how: signal.Signals, start: Start) -> None:
    highest, snowflake = 0, 0
    for _ in range(3):
        server = start()
        server.ready()
        ids = server.ids(1500)
        assert ids[0] > highest
        highest = ids[-1]
        drawn = int(server.get("/api/snowflake/get/x").text)
        assert drawn > snowflake
        snowflake = drawn
        assert server.stop(how) == Exit.DONE
        assert re.search(rf"stopping .*signal={how.name}", server.said)
        assert "stopped" in server.said.splitlines()[-1]


def test_it_goes_on_above_after_it_was_killed(start: Start) -> None:
    server = start()
    server.ready()
    highest = server.ids(1500)[-1]
    assert server.stop(signal.SIGKILL) == -signal.SIGKILL
    server = start()
    server.ready()
    assert server.ids(1)[0] > highest
    assert "(new)" not in server.said


def test_a_second_signal_ends_a_stop_that_takes_long(start: Start) -> None:
    server = start(GOLOVES_SERVER__DRAIN="600", GOLOVES_HTTP__REQUEST_TIMEOUT="600")
    server.ready()
    with socket.create_connection(server.address) as slow:
        slow.sendall(b"GET /healthz HTTP/1.1\r\n")
        server.get("/healthz")  # so that the slow request was taken in before the signal
        server.process.send_signal(signal.SIGTERM)
        server.says("stopping")
        assert server.stop(signal.SIGTERM) == Exit.INTERRUPTED
    assert "error: stopped at once by a second signal" in server.said


# --- where it listens ---


def test_it_listens_on_several_addresses_a_unix_socket_among_them(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    server = start("--http", "127.0.0.1:0", "--http", f"unix:{path}")
    server.ready()
    assert server.urls[1] == f"unix:{path}"
    with httpx2.Client(transport=httpx2.HTTPTransport(uds=str(path))) as client:
        assert client.get("http://localhost/api/segment/get/default").text == "1"
    assert goloves("next", "default", "--server", f"unix:{path}", cwd=tmp_path).stdout == "2\n"
    assert server.stop() == Exit.DONE
    assert not path.exists()


def test_a_unix_socket_alone_comes_with_suggestions_that_work(start: Start, tmp_path: Path) -> None:
    server = start("--http", f"unix:{tmp_path}/socket")
    server.says(r"^  stop ")
    line = server.says(r"(curl --unix-socket .*/api/segment/get/default)$")[1]
    assert subprocess.run(shlex.split(line), capture_output=True, text=True, check=True).stdout == "1"


def test_ipv6_is_written_in_brackets(start: Start) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    server = start("--http", "[::1]:0")
    server.ready()
    assert server.urls[0].startswith("http://[::1]:")
    assert server.ids(1) == [1]


def test_p1_a_port_in_use_is_an_error_and_the_one_that_uses_it_goes_on(start: Start, tmp_path: Path) -> None:
    first = start()
    first.ready()
    address = first.urls[0].removeprefix("http://")
    second = start("--http", address, "--data-dir", "other")
    assert second.ended() == Exit.CONFIG
    assert f"error: can't listen on {address}: another process listens there already; stop it, or choose" in second.said
    assert not (tmp_path / "other").exists()
    assert first.ids(1) == [1]


def test_two_nodes_cannot_share_a_data_directory(start: Start) -> None:
    first = start()
    first.ready()
    second = start()
    assert second.ended() == Exit.CONFIG
    assert "belongs to a node that is running; stop it, or give this one another" in second.said
    assert first.ids(1) == [1]


# --- what it refuses ---


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["--grpc", "50051"],
            '--grpc: grpc.listen holds "50051": the host is missing; 127.0.0.1:50051 is this machine only',
        ),
        (
            ["--admin", "0.0.0.0:8081"],
            '--admin: admin.listen is "0.0.0.0:8081": only this machine may reach it',
        ),
        (["--nodes", "65"], "--nodes: server.nodes = 65: there can be 0 to 64 nodes, or as many as cores: auto"),
        (
            ["--http", "8080"],
            '--http: http.listen holds "8080": the host is missing; 127.0.0.1:8080 is this machine only',
        ),
        (["--store", "redis://h/0"], '--store: stores.url is "redis://h/0": '),
        (["--store", "etcd://h/p"], "later version"),
        (["--config", "nowhere.toml"], "nowhere.toml: there is no such configuration file"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(
    words: list[str], says: str, start: Start, tmp_path: Path
) -> None:
    server = start(*words)
    assert server.ended() == Exit.CONFIG
    assert says in server.said
    assert list(tmp_path.iterdir()) == []


def test_a_typo_in_the_file_is_named_with_its_line_and_nothing_starts(start: Start, tmp_path: Path) -> None:
    (tmp_path / "g.toml").write_text("[segment]\ndedline = 0.2\n[spaces.default]\nwindow = 'long'\n")
    server = start("--config", "g.toml")
    assert server.ended() == Exit.CONFIG
    assert server.said.splitlines() == [
        "error: the configuration can't be used; nothing was started",
        "  g.toml:2: there is no setting segment.dedline; did you mean segment.deadline?",
        '  g.toml:4: spaces.default.window is "long"; it has to be a number',
    ]
    assert not (tmp_path / "data").exists()


def test_r8_a_store_that_is_gone_is_not_made_anew_where_nodes_remember_it(start: Start, tmp_path: Path) -> None:
    server = start()
    server.ready()
    server.ids(3)
    assert server.stop() == Exit.DONE
    for file in (tmp_path / "data").glob("goloves.db*"):
        file.unlink()
    server = start()
    assert server.ended() == Exit.FAILED
    assert f"there is no store at {tmp_path}/data/goloves.db" in server.said
    assert "made anew, it gives the same ids again" in server.said
    server = start("--init")
    server.ready()
    assert server.stop() == Exit.DONE


def test_where_others_can_reach_it_a_missing_store_is_an_error_unless_init_says_it_is_new(
    start: Start, tmp_path: Path
) -> None:
    outside = ("--http", "0.0.0.0:0")
    server = start(*outside)
    assert server.ended() == Exit.FAILED
    assert f"there is no store at {tmp_path}/data/goloves.db" in server.said
    assert "--init" in server.said
    assert not (tmp_path / "data" / "goloves.db").exists()
    server = start(*outside, "--init")
    server.says(r"curl http://127\.0\.0\.1:\d+/api/segment/get/default")
    assert server.stop() == Exit.DONE
    server = start(*outside)
    server.says(r"^Goloves .* listens on http://0\.0\.0\.0:\d+")
    assert server.stop() == Exit.DONE


def test_init_on_a_store_that_exists_is_an_error_so_that_it_stays_in_no_service_definition(start: Start) -> None:
    server = start("--init")
    server.ready()
    assert server.stop() == Exit.DONE
    server = start("--init")
    assert server.ended() == Exit.FAILED
    assert "exists already; start without --init, which is for a new store only" in server.said


# --- databases ---


@pytest.fixture(params=["mariadb", "postgresql"])
def database(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(request.param)
    return found


def test_a_database_without_tables_is_refused_and_init_makes_them(start: Start, database: Server) -> None:
    url = database.fresh()
    server = start("--store", url)
    assert server.ended() == Exit.FAILED
    assert "has no tables yet; make them with: goloves migrate (or start once with --init)" in server.said
    server = start("--store", url, "--init")
    server.ready()
    assert server.ids(2) == [1, 2]
    assert re.search(r"^  store    (mysql|postgresql)://127\.0\.0\.1:\d+/test_", server.said, re.MULTILINE)
    server.stop()
    server = start("--store", url, "--init")
    assert server.ended() == Exit.FAILED
    assert "exists already; start without --init" in server.said


def test_a_wrong_password_ends_the_start_and_is_shown_nowhere(start: Start, database: Server) -> None:
    url = database.fresh()
    server = start("--store", database.url(url.rpartition("/")[2], password="geheim"))
    assert server.ended() == Exit.FAILED
    assert "password" in server.said
    assert "geheim" not in server.said


def test_leaf_s_own_table_is_taken_over_as_it_stands(start: Start, mariadb: Server) -> None:
    url = mariadb.fresh()
    mariadb.sql(LEAF, url.rpartition("/")[2])
    server = start("--store", url)
    server.says(r"^  stop ")
    assert server.get("/api/segment/get/pay").text == "2001"
    assert "/api/segment/get/pay" in server.said
    assert re.search(r"^  waits    no window of the space 'default': .*goloves migrate", server.said, re.MULTILINE)
    answer = server.get("/api/snowflake/get/x")
    assert answer.status_code == 503
    assert "goloves migrate" in answer.json()["detail"]
    assert mariadb.sql("SELECT max_id FROM leaf_alloc", url.rpartition("/")[2]) == "2011"


def test_a_database_that_is_away_at_the_start_is_waited_for(start: Start, database: Server) -> None:
    url = database.fresh()
    make = start("--store", url, "--init")
    make.ready()
    make.stop()
    database.kill()
    try:
        server = start("--store", url)
        server.says(r"^  waits    the store can't be used: ")
        server.says(r"^  stop ")
        answer = server.get("/readyz")
        assert answer.status_code == 503
        assert "the store can't be used: " in answer.json()["detail"]
        assert server.get("/healthz").status_code == 200
        refused = server.get("/api/segment/get/default")
        assert refused.status_code == 503
        assert int(refused.headers["Retry-After"]) >= 1
        for _ in range(20):
            server.get("/api/segment/get/default")
        assert server.said.count("the store is away [goloves.store]") <= 2, "once for ranges and once for windows"
    finally:
        database.start()
    server.ready()
    assert server.ids(1)[0] >= 1
    assert "the store answers again" in server.said
    assert server.stop() == Exit.DONE


def test_a_store_that_does_not_answer_keeps_nobody_from_reading_where_it_listens_and_from_stopping_it(
    start: Start,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        server = start("--store", f"mysql://u:p@127.0.0.1:{port}/d", GOLOVES_STORES__TIMEOUT="60")
        server.says(r"^  waits    the store has not answered yet$")
        server.says(r"^  try      curl http://127\.0\.0\.1:\d+/api/segment/get/default$")
        assert server.stop() == Exit.DONE
    assert "stopped" in server.said.splitlines()[-1]


def test_another_layout_than_the_one_stored_with_the_space_gives_no_ids_and_says_why(start: Start) -> None:
    server = start()
    server.ready()
    server.stop()
    server = start(GOLOVES_SPACES__DEFAULT__PRESET="js53")
    server.says("was registered with the layout time 41")
    assert "A space never changes: configure the registered layout, or use a space of another name" in server.said


# --- logs ---


def test_as_json_every_line_is_an_object_and_none_holds_a_secret(start: Start, mariadb: Server) -> None:
    url = mariadb.fresh()
    server = start("--store", url, "--init", GOLOVES_LOG__FORMAT="json")
    server.says('"event": "serving"')
    assert server.stop() == Exit.DONE
    events = {line["event"]: line for line in map(json.loads, server.said.splitlines())}
    assert list(events)[-1] == "stopped"
    assert events["serving"]["http"][0].startswith("http://127.0.0.1:")
    assert events["serving"]["waits"] == []
    assert url.rpartition("@")[0].rpartition(":")[2] not in server.said


def test_settings_come_from_the_environment_too(start: Start, tmp_path: Path) -> None:
    (tmp_path / "url").write_text(f"sqlite:///{tmp_path}/elsewhere.db\n")
    server = start(GOLOVES_STORE_FILE=str(tmp_path / "url"), GOLOVES_SPACES__WEB__PRESET="js53")
    server.ready()
    assert (tmp_path / "elsewhere.db").exists()
    answer = httpx2.post(f"{server.urls[0]}/v1/snowflakes/web/ids", params={"count": 2})
    assert all(int(id_) < 2**53 for id_ in answer.json()["ids"])


def test_leaf_s_route_serves_the_space_that_the_configuration_maps_a_key_to(start: Start, tmp_path: Path) -> None:
    (tmp_path / "g.toml").write_text("[spaces.web]\npreset = 'js53'\n[leaf.spaces]\nshop = 'web'\n")
    server = start("--config", "g.toml")
    server.ready()
    assert int(server.get("/api/snowflake/get/shop").text) < 2**53
    assert int(server.get("/api/snowflake/get/other").text) > 2**53


def test_port_of_a_listener_may_be_chosen_by_a_person(start: Start) -> None:
    port = free_port()
    server = start("--http", f"127.0.0.1:{port}")
    server.ready()
    assert server.urls == [f"http://127.0.0.1:{port}"]
