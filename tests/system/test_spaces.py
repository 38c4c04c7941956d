"""Worker ids as a person meets them on a real store: restricted, scarce, taken."""

import pytest

from databases import Server
from system.serving import Serving, Start

QUICK = {"GOLOVES_SNOWFLAKE__MAX_BACKWARD": "0.5", "GOLOVES_SNOWFLAKE__MAX_FORWARD": "0.5"}


@pytest.fixture(params=["sqlite", "mariadb", "postgresql"])
def store(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Words that name the store and make it."""
    if request.param == "sqlite":
        return ()
    server: Server = request.getfixturevalue(request.param)
    return ("--store", server.fresh(), "--init")


def worker(server: Serving) -> int:
    id_ = server.get("/api/snowflake/get/x").text
    return int(server.get(f"/v1/snowflakes/default/ids/{id_}").json()["worker"])


def test_w10_only_the_worker_ids_of_the_configuration_are_used(store: tuple[str, ...], start: Start) -> None:
    first = start(*store, GOLOVES_SPACES__DEFAULT__WORKERS="700-701")
    first.ready()
    again = tuple(word for word in store if word != "--init")
    second = start(*again, "--data-dir", "other", GOLOVES_SPACES__DEFAULT__WORKERS="701") if again else None
    if second is None:
        assert worker(first) in (700, 701)
        return
    second.says(r"^Goloves .* listens on ")
    if worker(first) == 700:
        second.ready()
        assert worker(second) == 701
    else:
        answer = second.wait(lambda: refusal(second), "refusal")
        assert "all 1 worker ids of space 'default' are taken" in answer


def refusal(server: Serving) -> str | None:
    answer = server.get("/readyz")
    return answer.text if answer.status_code == 503 and "taken" in answer.text else None


def test_w6_where_no_worker_id_is_free_readiness_and_log_say_how_long_to_wait(start: Start, mariadb: Server) -> None:
    url = mariadb.fresh()
    one = {"GOLOVES_SPACES__DEFAULT__WORKERS": "3", "GOLOVES_SPACES__DEFAULT__WINDOW": "8", **QUICK}
    first = start("--store", url, "--init", **one)
    first.ready()
    second = start("--store", url, "--data-dir", "other", **one)
    second.says(r"^Goloves .* listens on ")
    said = second.wait(lambda: refusal(second), "refusal")
    assert "all 1 worker ids of space 'default' are taken; the first becomes free in " in said
    second.says(r"no window .*the first becomes free in \d+\.\d s")
    first.says(r"worker ids of the space run short.* of=1")
    first.remove()
    second.wait(lambda: second.get("/readyz").status_code == 200, "the end of the killed node's window")
    assert worker(second) == 3


def test_w6_a_second_node_with_a_static_number_waits_and_names_the_first(start: Start, mariadb: Server) -> None:
    url = mariadb.fresh()
    seven = {"GOLOVES_SPACES__DEFAULT__WORKER": "7"}
    first = start("--store", url, "--init", **seven)
    first.ready()
    assert worker(first) == 7
    second = start("--store", url, "--data-dir", "other", **seven)
    second.says(r"^Goloves .* listens on ")
    second.says(r"no window .*the worker id 7 of space .default. is held by .* node 0 pid \d+ for \d+\.\d s more")
    assert second.get("/readyz").status_code == 503
    assert second.ids(1), "numbers of tags need no worker id"
    assert first.stop() == 0
    second.wait(lambda: second.get("/readyz").status_code == 200, "the number that the first gave back")
    assert worker(second) == 7
