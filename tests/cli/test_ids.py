import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import UnixStreamServer
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from click.testing import Result

from databases import free_port
from goloves.cli.failures import Exit

Invoke = Callable[..., Result]


@dataclass
class Answers:
    """What the server was asked, and what it answers."""

    status: int = 200
    body: str | None = None
    asked: list[tuple[str, str, int]] = field(default_factory=list)


def handler(answers: Answers) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            parts = urlsplit(self.path)
            count = int(parse_qs(parts.query)["count"][0])
            answers.asked.append((self.headers["Accept"], unquote(parts.path), count))
            body = answers.body
            if body is None:
                body = json.dumps({"ids": [str(number) for number in range(1, count + 1)]})
            self.send_response(answers.status)
            self.send_header("Content-Length", str(len(body.encode())))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *args: object) -> None:
            pass

        def address_string(self) -> str:
            return "unix"

    return Handler


@contextmanager
def serving(server: ThreadingHTTPServer | UnixStreamServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
def server(answers: Answers) -> Iterator[str]:
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler(answers))
    with serving(http):
        yield f"http://127.0.0.1:{http.server_port}"


# --- next ---


def test_next_asks_for_ids_of_a_tag_and_writes_one_a_line(invoke: Invoke, server: str, answers: Answers) -> None:
    result = invoke("next", "order", "--count", "3", "--server", server)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "1\n2\n3\n", "")
    assert answers.asked == [("application/json", "/v1/segments/order/ids", 3)]


def test_next_asks_for_ids_of_a_space(invoke: Invoke, server: str, answers: Answers) -> None:
    result = invoke("next", "--space", "a/b ü?", "--json", "--server", f"{server}/")
    assert json.loads(result.stdout) == {"ids": ["1"]}
    assert answers.asked == [("application/json", "/v1/snowflakes/a/b ü?/ids", 1)]


def test_next_takes_the_server_from_the_environment_and_without_its_scheme(
    invoke: Invoke, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOLOVES_SERVER", server.removeprefix("http://"))
    assert invoke("next", "order").stdout == "1\n"


def test_next_speaks_over_a_unix_socket(invoke: Invoke, answers: Answers, tmp_path: Path) -> None:
    with serving(UnixStreamServer(str(tmp_path / "socket"), handler(answers))):
        assert invoke("next", "order", "--server", f"unix:{tmp_path}/socket").stdout == "1\n"


@pytest.mark.parametrize(
    ("status", "code", "exit_code"),
    [
        (404, "unknown_tag", Exit.NOT_FOUND),
        (400, "invalid_count", Exit.USAGE),
        (503, "no_range", Exit.UNAVAILABLE),
        (429, "too_many_waiting", Exit.UNAVAILABLE),
        (500, "exhausted", Exit.FAILED),
    ],
)
def test_next_repeats_what_the_server_says_is_wrong(
    status: int, code: str, exit_code: Exit, invoke: Invoke, server: str, answers: Answers
) -> None:
    answers.status, answers.body = status, json.dumps({"code": code, "detail": "it went wrong", "status": status})
    result = invoke("next", "order", "--server", server)
    assert result.exit_code == exit_code
    assert result.stderr.startswith("error: it went wrong")
    assert result.stdout == ""


@pytest.mark.parametrize("body", ["<html>", "{}", '{"ids": null}', "[]", '{"detail": "x"}'])
@pytest.mark.parametrize("status", [200, 502])
def test_next_tells_a_server_that_is_not_goloves(
    body: str, status: int, invoke: Invoke, server: str, answers: Answers
) -> None:
    answers.status, answers.body = status, body
    result = invoke("next", "order", "--server", server)
    assert result.exit_code == Exit.FAILED
    assert result.stderr == f"error: {server} answered {status}, but not as Goloves does; is it a Goloves server?\n"


def test_next_says_what_to_do_when_there_is_no_server(invoke: Invoke) -> None:
    result = invoke("next", "order", "--server", f"http://127.0.0.1:{free_port()}")
    assert result.exit_code == Exit.UNAVAILABLE
    assert "can't be reached: Connection refused; start one with `goloves serve`" in result.stderr
    assert "there is no such socket" in invoke("next", "order", "--server", "unix:/nowhere").stderr


@pytest.mark.parametrize("server", ["ftp://x", "http://:x", "http://"])
def test_next_names_a_server_that_cannot_be_one(server: str, invoke: Invoke) -> None:
    result = invoke("next", "order", "--server", server)
    assert result.exit_code == Exit.USAGE
    assert "write http://host:port or unix:/path" in result.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "name a tag (goloves next order), or a space"),
        (["order", "--space", "default"], "name a tag (goloves next order), or a space"),
        (["order", "--count", "0"], "0 is not in the range x>=1"),
        (["order", "--count", "x"], "'x' is not a valid integer"),
        ([" order"], "begins or ends with white space"),
        (["--space", ""], "the name of a space is empty"),
    ],
)
def test_next_says_what_is_wrong_with_what_was_asked(words: list[str], says: str, invoke: Invoke) -> None:
    result = invoke("next", *words)
    assert result.exit_code == Exit.USAGE
    assert says in result.stderr


# --- decode ---

ID = "2124934442597220395"
"""Leaf decodes it to 1795458825145 ms, worker 0, sequence 43."""


def test_decode_says_when_by_whom_and_which(invoke: Invoke) -> None:
    assert invoke("decode", ID).stdout == (
        "time      2026-11-23T18:33:45.145Z\nms        1795458825145\nworker    0\nsequence  43\n"
    )


def test_decode_writes_json_as_the_http_api_does(invoke: Invoke) -> None:
    first = {
        "id": ID,
        "time": "2026-11-23T18:33:45.145Z",
        "unix_ms": "1795458825145",
        "worker": 0,
        "sequence": 43,
    }
    assert json.loads(invoke("decode", ID, "--json").stdout) == first
    several = json.loads(invoke("decode", ID, "1", "--json").stdout)
    assert several[0] == first
    assert several[1]["time"] == "2010-11-04T01:42:54.657Z"


def test_decode_writes_several_ids_as_a_table(invoke: Invoke) -> None:
    lines = invoke("decode", ID, "1").stdout.splitlines()
    assert lines[0].split() == ["id", "time", "ms", "worker", "sequence"]
    assert lines[2].split() == [ID, "2026-11-23T18:33:45.145Z", "1795458825145", "0", "43"]
    assert len(lines) == 4


def test_decode_knows_the_presets_and_other_epochs(invoke: Invoke) -> None:
    assert "worker    7" in invoke("decode", str(5 << 15 | 7 << 8 | 3), "--preset", "js53").stdout
    assert "worker    7" in invoke("decode", str(5 << 24 | 3 << 16 | 7), "--preset", "sonyflake").stdout
    assert "1970-01-01T00:00:00.000Z" in invoke("decode", "1", "--epoch-ms", "0").stdout
    assert "2024-01-01" in invoke("decode", "1", "--preset", "uid", "--epoch-ms", "1704067200000").stdout


def test_decode_uses_the_layout_of_a_space_of_the_configuration(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "g.toml").write_text("[spaces.web]\npreset = 'js53'\n")
    result = invoke("decode", str(5 << 15 | 7 << 8 | 3), "--config", "g.toml", "--space", "web")
    assert "worker    7" in result.stdout


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["x"], Exit.USAGE, "'x' is no id; an id is a whole number of up to 19 digits"),
        (["١٢"], Exit.USAGE, "is no id"),
        (["1" * 1000], Exit.USAGE, "is no id"),
        (["1.5"], Exit.USAGE, "'1.5' is no id"),
        (["--", "-1"], Exit.USAGE, "an id is not negative"),
        (["9223372036854775808"], Exit.USAGE, "has more than the 63 bits of this layout"),
        (["1", "--preset", "uid"], Exit.CONFIG, "asks for an epoch"),
        (["1", "--preset", "leef"], Exit.USAGE, "'leef' is not one of 'leaf'"),
        (["1", "--epoch-ms", "-1"], Exit.CONFIG, "epoch_ms is -1"),
        (["1", "--epoch-ms", "253402300799999", "--preset", "leaf"], Exit.DONE, ""),
        (["4194304", "--epoch-ms", "253402300799999"], Exit.USAGE, "beyond the year 9999"),
        (["1", "--space", "defualt"], Exit.NOT_FOUND, "no space 'defualt' in the configuration; did you mean default?"),
        (["1", "--space", "default", "--preset", "leaf"], Exit.USAGE, "leave out --preset and --epoch-ms"),
        (["1", "--config", "nowhere.toml"], Exit.CONFIG, "nowhere.toml: there is no such configuration file"),
    ],
)
def test_decode_says_what_is_wrong(words: list[str], code: Exit, says: str, invoke: Invoke) -> None:
    result = invoke("decode", *words)
    assert result.exit_code == code
    assert says in result.stderr
