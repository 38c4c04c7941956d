import re
import tomllib
from io import StringIO
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from goloves.config import Config, ConfigProblems, Loaded, SpaceConfig, StoresConfig, load, mask_url
from goloves.config.addresses import Address, parse_address
from goloves.config.document import fields, reference, sections, template
from goloves.config.lines import key_lines
from goloves.config.load import effective
from goloves.config.rules import values
from goloves.config.schema import ANY, Key, find, settings, show
from goloves.config.settings import LATER
from goloves.core.layout import LEAF_EPOCH_MS, PRESETS
from goloves.errors import ConfigError

ROOT = Path(__file__).parents[1]


def loaded(
    toml: str = "", *, env: dict[str, str] | None = None, flags: dict[Key, Any] | None = None, where: Path
) -> Loaded:
    file = where / "goloves.toml"
    file.write_text(toml, encoding="utf-8")
    return load(file, env or {}, flags or {})


def problems(
    toml: str = "", *, env: dict[str, str] | None = None, flags: dict[Key, Any] | None = None, where: Path
) -> list[str]:
    with pytest.raises(ConfigProblems) as caught:
        loaded(toml, env=env, flags=flags, where=where)
    assert caught.value.message == "\n".join(map(str, caught.value.problems))
    return [line.removeprefix(f"{where}/") for line in caught.value.message.splitlines()]


# --- what is wrong is named with its line, and with what was likely meant ---

WRONG = [
    (
        "[segment]\n\ndedline = 1\n",
        "goloves.toml:3: there is no setting segment.dedline; did you mean segment.deadline?",
    ),
    ("[segmant]\ndeadline = 1\n", "goloves.toml:1: there is no setting segmant; did you mean segment?"),
    ("segment.deadlin = 1\n", "goloves.toml:1: there is no setting segment.deadlin; did you mean segment.deadline?"),
    (
        "deadline = 1\n",
        "goloves.toml:1: there is no setting deadline; did you mean segment.deadline or snowflake.deadline?",
    ),
    ("[server]\nxyzzy = 1\n", "goloves.toml:2: there is no setting server.xyzzy"),
    ("[segment.deadline]\nx = 1\n", 'goloves.toml:1: segment.deadline is {"x": 1}; it has to be a number'),
    ("segment = 3\n", "goloves.toml:1: segment is 3; it is a table, written [segment]"),
    ("spaces = 3\n", "goloves.toml:1: spaces is 3; it is a table, written [spaces.NAME]"),
    ("[spaces]\norders = 'js53'\n", 'goloves.toml:2: spaces.orders is "js53"; it is a table, written [spaces.orders]'),
    ("[segment]\ndeadline = 'fast'\n", 'goloves.toml:2: segment.deadline is "fast"; it has to be a number'),
    ("[segment]\nmax_step = 1.5\n", "goloves.toml:2: segment.max_step is 1.5; it has to be a whole number"),
    ("[segment]\nmax_step = true\n", "goloves.toml:2: segment.max_step is true; it has to be a whole number"),
    (
        "[segment]\nauto_create = 1\n",
        "goloves.toml:2: segment.auto_create is 1; it has to be true or false",
    ),
    ("[http]\nlisten = ':80'\n", 'goloves.toml:2: http.listen is ":80"; it has to be a list of texts'),
    ("[server]\ndata_dir = 1979-05-27\n", 'goloves.toml:2: server.data_dir is "1979-05-27"; it has to be a text'),
    (
        "[spaces.o]\npreset = 'jss53'\n",
        'goloves.toml:2: spaces.o.preset is "jss53"; it has to be one of "leaf", "js53", "sonyflake", "uid"; '
        "did you mean js53?",
    ),
    ("[log]\nlevel = 'warn'\n", '"debug", "info", "warning", "error"; did you mean warning?'),
    ("[segment]\ndeadline = -1\n", "goloves.toml:2: segment.deadline is -1.0; it has to be 0.001 to 60 s, for"),
    ("[segment]\ndeadline = nan\n", "goloves.toml:2: segment.deadline is nan; it has to be 0.001 to 60 s"),
    ("[segment]\ntarget = inf\n", "goloves.toml:2: segment.target is inf; it has to be 1 to 86400 s"),
    ("[http]\nmax_count = 0\n", "goloves.toml:2: http.max_count is 0; it has to be 1 to 1000000, for a node"),
    (
        "[http]\nmax_headers = 10000000000\n",
        "goloves.toml:2: http.max_headers is 10000000000; it has to be 16 to 10000, for browsers send more than ten",
    ),
    (
        "[http]\nwrite_timeout = inf\n",
        "goloves.toml:2: http.write_timeout is inf; it has to be 1 to 3600 s, for a peer needs a moment",
    ),
    ("[http]\nmax_age = nan\n", "goloves.toml:2: http.max_age is nan; it has to be 1 to 31536000 s, for clients"),
    ("[http]\nmax_head = 2000\n", "goloves.toml:2: http.max_head is 2000; it can't be below max_line (8192)"),
    (
        "[segment]\nmax_step = 10\ndefault_step = 20\n",
        "goloves.toml:3: segment.default_step = 20 and segment.max_step = 10: default_step is larger than max_step",
    ),
    (
        "[stores]\nfailover = 'skip'\nfailover_gap = 10\n",
        "goloves.toml:3: stores.failover_gap = 10 and segment.max_step = 1000000: failover_gap is smaller than",
    ),
    ("[stores]\nfailover = 'wait'\n", 'stores.failover is "wait"; it has to be one of "halt", "skip", "ignore"'),
    ("[stores]\nfailover_gap = 0\n", "goloves.toml:2: stores.failover_gap is 0; it has to be 1 to"),
    (
        "[snowflake]\nmax_backward = 600\n",
        "goloves.toml:2: spaces.default.window = 600.0 and snowflake.max_backward = 600.0: window is not longer than",
    ),
    (
        "[spaces.default]\nwindow = 9\n",
        "goloves.toml:2: spaces.default.window = 9.0 and snowflake.max_forward = 10.0: window is not longer than",
    ),
    (
        "[snowflake]\nmax_backward = 0\nmax_forward = 1\n[spaces.q]\npreset = 'uid'\nepoch_ms = 0\nwindow = 9\n",
        "goloves.toml:7: spaces.q.window = 9.0: window is too short for its unit",
    ),
    (
        "[spaces.q]\ntime_bits = 24\nwindow = 86400\n",
        "goloves.toml:3: spaces.q.window = 86400.0 and spaces.q.time_bits = 24 and spaces.q.preset",
    ),
    (
        "[spaces.q]\npreset = 'uid'\n",
        "goloves.toml:2: spaces.q: the layout preset 'uid' asks for an epoch: set epoch_ms (ms since 1970)",
    ),
    ("[spaces.q]\nworker_bits = 22\n", "goloves.toml:2: spaces.q: time, worker and sequence take 75 bits together"),
    (
        "[spaces.q]\nwindow = 60\nunit_ms = 7\n",
        "goloves.toml:3: spaces.q: unit_ms is 7; 1, 10, 100 or 1000 is possible",
    ),
    (
        "[spaces.q]\nworkers = 'all'\n",
        'goloves.toml:2: spaces.q.workers is "all": workers names the first and the last worker id, as in "512-1023"',
    ),
    (
        "[spaces.q]\nworkers = '512-1024'\n",
        'goloves.toml:2: spaces.q.workers is "512-1024": workers ends at 1024, and the layout has the worker ids 0 to',
    ),
    ("[spaces.q]\nworkers = '9-3'\n", 'goloves.toml:2: spaces.q.workers is "9-3": workers begins at 9 and ends before'),
    (
        "[spaces.q]\npreset = 'js53'\nworkers = '128'\n",
        "workers ends at 128, and the layout has the worker ids 0 to 127",
    ),
    ("[spaces.q]\nworkers = 7\n", "goloves.toml:2: spaces.q.workers is 7; it has to be a text"),
    ('[spaces." q"]\n', "goloves.toml:1: the name ' q' of a space begins or ends with white space"),
    ('[spaces.""]\nwindow = 60\n', "goloves.toml:1: the name of a space is empty"),
    (
        "[spaces.orders]\n[leaf.spaces]\nkey = 'order'\n",
        "goloves.toml:3: leaf.spaces.key names the space 'order', which does not exist; did you mean orders?",
    ),
    ("[leaf.spaces]\nkey = 3\n", "goloves.toml:2: leaf.spaces.key is 3; it has to be a text"),
    ("[http]\nlisten = []\n", "goloves.toml:2: http.listen is empty; a server without an address serves nobody"),
    (
        "[http]\nlisten = [\n  '127.0.0.1:80',\n  '127.0.0.1:80',\n]\n",
        "goloves.toml:2: http.listen names 127.0.0.1:80 and 127.0.0.1:80, which can't both be listened on",
    ),
    ("[http]\nlisten = ['8080']\n", 'goloves.toml:2: http.listen holds "8080": the host is missing; 127.0.0.1:8080'),
    ("[server]\nnodes = 65\n", "goloves.toml:2: server.nodes = 65: there can be 0 to 64 nodes"),
    ("[server]\nnodes = 'all'\n", 'goloves.toml:2: server.nodes is "all"; it has to be a whole number or "auto"'),
    ("[admin]\nlisten = '0.0.0.0:8081'\n", 'goloves.toml:2: admin.listen is "0.0.0.0:8081": only this machine may'),
    ("[auth]\nkey = ':1'\n", "goloves.toml:1: access rights (auth) will come with a later"),
    ("auth = 3\n", "goloves.toml:1: access rights (auth) will come with a later version; leave it out"),
    (
        "[grpc]\nlisten = ['127.0.0.1:8080']\n",
        "goloves.toml:2: grpc.listen names 127.0.0.1:8080 and 127.0.0.1:8080, which can't both be listened on",
    ),
    ("[grpc]\nmax_streams = 0\n", "goloves.toml:2: grpc.max_streams is 0; it has to be 1 to 1048576, for a client"),
    ("[grpc]\nmax_count = 1000000\n", "goloves.toml:2: grpc.max_count is 1000000; it has to be 1 to 100000, for a"),
    ("[tls]\nkey = 'k.pem'\n", "a certificate and its key are set together; set the other one too, or neither"),
    ("[tls]\nclient_authorities = 'ca.pem'\n", "client certificates need TLS; set tls.certificate and tls.key"),
    ("[grcp]\n", "goloves.toml:1: there is no setting grcp; did you mean grpc?"),
    ("[stores]\nurl = 'nonsense'\n", 'goloves.toml:2: stores.url is "nonsense": '),
    ("[stores]\nwindows = 'redis://h/1'\n", 'goloves.toml:2: stores.windows is "redis://h/1": '),
    ("[stores]\nurl = 'etcd://h/p'\n", "later version"),
    ("[a]\nb = \n", "goloves.toml:2: not TOML at column 5: Invalid value"),
    ("[a]\nb = 1\nb = 2\n", "goloves.toml:3: not TOML"),
    ("[a]\nb = '''x\n", "goloves.toml:2: not TOML at the end of the file: Expected"),
    ("[a]\n[a]\n", "goloves.toml:2: not TOML at column 3: Cannot declare ('a',) twice"),
]


@pytest.mark.parametrize(("toml", "says"), WRONG, ids=[says[:60] for _, says in WRONG])
def test_what_is_wrong_is_named_with_its_line_and_how_to_mend_it(toml: str, says: str, tmp_path: Path) -> None:
    found = problems(toml, where=tmp_path)
    assert any(says in line for line in found), found


def test_all_problems_are_named_at_once_in_the_order_of_the_lines(tmp_path: Path) -> None:
    toml = "[segment]\ndedline = 1\ntarget = 0\n[auth]\nx = 1\n[snowflake]\ndeadline = 'x'\n[http]\nlisten = ['x']\n"
    found = problems(toml, env={"GOLOVES_LOG__LEVEL": "loud"}, flags={("server", "nodes"): 300}, where=tmp_path)
    places = [line.split(": ")[0] for line in found]
    assert places == [*(f"goloves.toml:{line}" for line in (2, 3, 4, 7, 9)), "GOLOVES_LOG__LEVEL", "--nodes"]


def test_a_setting_of_a_wrong_type_brings_no_second_complaint(tmp_path: Path) -> None:
    assert len(problems("[segment]\ndeadline = 'x'\n", where=tmp_path)) == 1


def test_a_file_that_is_not_there_or_no_file_is_named(tmp_path: Path) -> None:
    for path, says in [
        (tmp_path / "no.toml", "no.toml: there is no such configuration file"),
        (tmp_path, ": the configuration file can't be read: Is a directory"),
    ]:
        with pytest.raises(ConfigProblems, match=re.escape(says)):
            load(path, {}, {})


def test_a_file_that_is_not_utf8_is_named_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "latin.toml"
    file.write_bytes(b"[server]\ndata_dir = '\xe4'\n")
    with pytest.raises(ConfigProblems, match=r"latin.toml:2: not UTF-8"):
        load(file, {}, {})


def test_a_byte_order_mark_and_windows_line_ends_are_no_problem(tmp_path: Path) -> None:
    file = tmp_path / "goloves.toml"
    file.write_bytes(b"\xef\xbb\xbf[segment]\r\n\r\ndeadline = 1\r\n")
    result = load(file, {}, {})
    assert result.config.segment.deadline == 1.0
    assert result.sources["segment", "deadline"] == f"{file}:3"


@pytest.mark.parametrize("key", [key for key in settings() if find(key).type in (int, float)], ids=show)  # type: ignore[union-attr]
def test_every_number_has_bounds(key: Key, tmp_path: Path) -> None:
    section = ".".join("default" if part == ANY else part for part in key[:-1])
    bad = ["-1000000", "inf", "nan"] if find(key).type is float else ["-1000000"]  # type: ignore[union-attr]
    if key[0] in ("http", "grpc") and find(key).type is float:  # type: ignore[union-attr]
        bad.remove("inf")
    for value in bad:
        found = problems(f"[{section}]\n{key[-1]} = {value}\n", where=tmp_path)
        assert any(line.startswith("goloves.toml:2: ") and key[-1] in line for line in found), found


# --- sources ---


def test_flags_beat_the_environment_which_beats_the_file_which_beats_the_defaults(tmp_path: Path) -> None:
    toml = "[server]\ndata_dir = 'file'\n[segment]\ndeadline = 1\ntarget = 100\n"
    env = {"GOLOVES_SERVER__DATA_DIR": "env", "GOLOVES_SEGMENT__DEADLINE": "2"}
    result = loaded(toml, env=env, flags={("server", "data_dir"): "flag"}, where=tmp_path)
    config = result.config
    assert (config.server.data_dir, config.segment.deadline, config.segment.target) == ("flag", 2.0, 100.0)
    assert config.segment.max_step == Config().segment.max_step
    file = tmp_path / "goloves.toml"
    assert result.sources == {
        ("server", "data_dir"): "--data-dir",
        ("segment", "deadline"): "GOLOVES_SEGMENT__DEADLINE",
        ("segment", "target"): f"{file}:5",
    }


def test_the_effective_settings_say_where_each_comes_from() -> None:
    rows = {key: (value, source) for key, value, source in effective(load(None, {"GOLOVES_LOG__FORMAT": "json"}, {}))}
    assert rows["log", "format"] == ("json", "GOLOVES_LOG__FORMAT")
    assert rows["log", "level"] == ("info", "default")
    assert rows["spaces", "default", "preset"] == ("leaf", "default")


@pytest.mark.parametrize(
    ("variable", "text", "key", "value"),
    [
        ("GOLOVES_SEGMENT__DEADLINE", "0.5", "segment.deadline", 0.5),
        ("GOLOVES_SEGMENT__MAX_STEP", "5000", "segment.max_step", 5000),
        ("GOLOVES_SEGMENT__AUTO_CREATE", "true", "segment.auto_create", True),
        ("GOLOVES_HTTP__LISTEN", "127.0.0.1:1, [::1]:2", "http.listen", ["127.0.0.1:1", "[::1]:2"]),
        ("GOLOVES_SERVER__DATA_DIR", "5", "server.data_dir", "5"),
        ("GOLOVES_STORE", "mysql://h/d", "stores.url", "mysql://h/d"),
        ("GOLOVES_STORES__URL", "mysql://h/d", "stores.url", "mysql://h/d"),
        ("GOLOVES_SPACES__DEFAULT__WINDOW", "60", "spaces.default.window", 60.0),
        ("GOLOVES_SPACES__ORDERS__WINDOW", "60", "spaces.orders.window", 60.0),
        ("GOLOVES_SPACES__Orders__WINDOW", "60", "spaces.Orders.window", 60.0),
        ("GOLOVES_LEAF__SPACES__K", "default", "leaf.spaces.k", "default"),
    ],
)
def test_a_variable_sets_a_setting(variable: str, text: str, key: str, value: Any) -> None:
    result = load(None, {variable: text}, {})
    [(path, found)] = values(result.config, tuple(key.split(".")))
    assert found == value
    assert result.sources[path] == variable


def test_a_space_of_the_file_is_found_whatever_the_case_of_the_variable(tmp_path: Path) -> None:
    result = loaded("[spaces.Orders]\n", env={"GOLOVES_SPACES__ORDERS__WINDOW": "60"}, where=tmp_path)
    assert result.config.spaces["Orders"].window == 60.0
    assert "orders" not in result.config.spaces


@pytest.mark.parametrize(
    ("env", "says"),
    [
        (
            {"GOLOVES_SEGMENT__DEDLINE": "1"},
            "GOLOVES_SEGMENT__DEDLINE: there is no setting segment.dedline; did you mean segment.deadline?",
        ),
        (
            {"GOLOVES_SEGMENT_DEADLINE": "1"},
            "GOLOVES_SEGMENT_DEADLINE: there is no such variable; did you mean GOLOVES_SEGMENT__DEADLINE?",
        ),
        ({"GOLOVES_STOR": "x"}, "GOLOVES_STOR: there is no such variable; did you mean GOLOVES_STORE?"),
        (
            {"GOLOVES_SEGMENT__DEADLINE__X": "1"},
            "GOLOVES_SEGMENT__DEADLINE__X: there is no setting segment.deadline.x; did you mean segment.deadline?",
        ),
        ({"GOLOVES_SEGMENT__DEADLINE": "0.5s"}, 'segment.deadline is "0.5s"; it has to be a number'),
        ({"GOLOVES_SEGMENT__AUTO_CREATE": "yes"}, 'segment.auto_create is "yes"; it has to be true or false'),
        ({"GOLOVES_AUTH__TOKEN": "x"}, "GOLOVES_AUTH__TOKEN: access rights (auth.token) will come with a later"),
        (
            {"GOLOVES_STORE": "mysql://h/d", "GOLOVES_STORES__URL": "mysql://h/e"},
            "GOLOVES_STORES__URL: GOLOVES_STORE sets stores.url to something else; keep one of the two",
        ),
    ],
)
def test_a_wrong_variable_is_named(env: dict[str, str], says: str, tmp_path: Path) -> None:
    [found] = problems(env=env, where=tmp_path)
    assert says in found


def test_variables_that_kubernetes_makes_for_a_service_named_goloves_are_left_alone() -> None:
    env = {
        "GOLOVES_PORT": "tcp://10.0.0.1:8080",
        "GOLOVES_SERVICE_HOST": "10.0.0.1",
        "GOLOVES_SERVICE_PORT_HTTP": "8080",
        "GOLOVES_PORT_8080_TCP_ADDR": "10.0.0.1",
        "GOLOVES_HTTP_SERVICE_HOST": "10.0.0.1",
    }
    assert load(None, env, {}) == load(None, {}, {})


def test_a_variable_that_resembles_nothing_is_ignored_and_said() -> None:
    result = load(None, {"GOLOVES_IMAGE_VERSION_STRING": "1"}, {})
    assert result.notes == ("the variable GOLOVES_IMAGE_VERSION_STRING sets nothing in Goloves and is ignored",)


def test_an_empty_variable_counts_as_not_set() -> None:
    assert load(None, {"GOLOVES_STORE": "", "GOLOVES_SEGMENT__DEADLINE": ""}, {}) == load(None, {}, {})


# --- stores and secrets ---


def test_the_default_store_is_a_file_in_the_data_directory() -> None:
    assert Config().segments_url == Config().windows_url == "sqlite:///./data/goloves.db"
    config = load(None, {}, {("server", "data_dir"): "/var/lib/goloves/"}).config
    assert config.segments_url == "sqlite:////var/lib/goloves/goloves.db"


def test_ranges_and_windows_may_come_from_different_stores(tmp_path: Path) -> None:
    config = loaded("[stores]\nurl = 'mysql://h/a'\nwindows = 'postgresql://h/b'\n", where=tmp_path).config
    assert (config.segments_url, config.windows_url) == ("mysql://h/a", "postgresql://h/b")


def test_a_store_of_a_flag_replaces_both_stores_of_the_file(tmp_path: Path) -> None:
    toml = "[stores]\nsegments = 'mysql://h/a'\nwindows_file = 'nowhere'\n"
    result = loaded(toml, flags={("stores", "url"): "postgresql://h/c"}, where=tmp_path)
    assert result.config.segments_url == result.config.windows_url == "postgresql://h/c"
    assert result.notes == ("--store replaces stores.segments", "--store replaces stores.windows")


def test_a_store_url_can_come_from_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "url"
    secret.write_text("mysql://u:geheim@h/d\n")
    result = load(None, {"GOLOVES_STORE_FILE": str(secret)}, {})
    assert result.config.segments_url == "mysql://u:geheim@h/d"
    assert result.sources["stores", "url"] == f"GOLOVES_STORE_FILE (from {secret})"


def test_a_url_of_a_later_source_beats_the_file_that_an_earlier_one_names(tmp_path: Path) -> None:
    result = loaded("[stores]\nurl_file = 'nowhere'\n", flags={("stores", "url"): "mysql://h/d"}, where=tmp_path)
    assert result.config.segments_url == "mysql://h/d"
    assert result.config.stores.url_file is None


def test_a_password_from_a_file_is_put_into_the_urls_that_lack_one(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("p@ss/w:ör d\n", encoding="utf-8")
    toml = f"""
        [stores]
        url = 'mysql://u@h:3306/d'
        segments = 'postgresql://u:own@h/d'
        password_file = '{secret}'
    """
    config = loaded(toml, where=tmp_path).config
    assert config.windows_url == "mysql://u:p%40ss%2Fw%3A%C3%B6r%20d@h:3306/d"
    assert config.segments_url == "postgresql://u:own@h/d"


def test_a_whole_url_of_a_later_source_needs_no_password_of_an_earlier_one(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("geheim")
    toml = f"[stores]\nurl = 'mysql://u@h/d'\npassword_file = '{tmp_path}/password'\n"
    owner: dict[Key, Any] = {("stores", "url"): "mysql://owner:own@h/d"}  # as for `goloves migrate`
    assert loaded(toml, flags=owner, where=tmp_path).config.segments_url == "mysql://owner:own@h/d"


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        (
            "url_file = 'nowhere'",
            "goloves.toml:2: the file of stores.url_file can't be read: No such file or directory",
        ),
        ("url_file = 'EMPTY'", "is empty"),
        ("password_file = 'LATIN'\nurl = 'mysql://u@h/d'", "can't be read: not UTF-8"),
        (
            "url = 'mysql://h/d'\nurl_file = 'EMPTY'",
            "goloves.toml:3: stores.url and stores.url_file (",
        ),
        ("password_file = 'SECRET'", "goloves.toml:2: stores.password_file is set, but no store URL names a user"),
        ("url = 'mysql://u:p@h/d'\npassword_file = 'SECRET'", "no store URL names a user without a password"),
    ],
)
def test_what_is_wrong_with_a_secret_is_named(toml: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text(" \n")
    (tmp_path / "latin").write_bytes(b"\xe4")
    (tmp_path / "secret").write_text("geheim")
    for name in ("EMPTY", "LATIN", "SECRET"):
        toml = toml.replace(name, str(tmp_path / name.lower()))
    found = problems(f"[stores]\n{toml}\n", where=tmp_path)
    assert any(says in line for line in found), found


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("mysql://u:geheim@h/d", "mysql://u:***@h/d"),
        ("mysql://u:ge@heim/geheim@h:1/d", "mysql://u:***@h:1/d"),
        ("mysql://:geheim@h/d", "mysql://:***@h/d"),
        ("mysql://u:geheim\n@h/d", "mysql://u:***@h/d"),
        ("postgresql://h/d?user=u&password=geheim&x=1", "postgresql://h/d?user=u&password=***&x=1"),
        ("u:geheim@h/d", "u:***@h/d"),
        ("mysql://u@h/d", "mysql://u@h/d"),
        ("sqlite:////a/b@c.db", "sqlite:////a/b@c.db"),
    ],
)
def test_a_masked_url_holds_no_password(url: str, shown: str) -> None:
    assert mask_url(url) == shown


SECRET_URLS = [
    "mysql://u:geheim@h/d",
    "mysql:/u:geheim@h",
    "mysql://u:gehei m@h/geheim@",
    "pg://u:geheim@h/d",
    "u:geheim@h",
]


@pytest.mark.parametrize("url", SECRET_URLS)
def test_no_problem_and_no_repr_shows_a_password(url: str, tmp_path: Path) -> None:
    config = Config(stores=StoresConfig(url=url, segments=url, windows=url))
    rich = StringIO()
    Console(file=rich, width=300).print(config, config.stores)
    shown = f"{config!r} {config} {config.stores!r} {rich.getvalue()}"
    try:
        shown += repr(loaded(f"[stores]\nurl = '{url}'\nsegments = ['{url}']\npassword_file='{url}'", where=tmp_path))
    except ConfigProblems as error:
        shown += f"{error!r} {error} {error.problems}"
    assert "stores" in shown or "Stores" in shown
    assert "geheim" not in shown


def test_r7_what_follows_from_another_server_reaches_the_store(tmp_path: Path) -> None:
    from goloves.server.assembly import options

    plain = options(loaded("", where=tmp_path).config)
    assert (plain.failover, plain.skip.numbers, plain.skip.time_ms) == ("halt", 10_000_000, 610_000)
    text = (
        "[stores]\nfailover = 'skip'\nfailover_gap = 2000000\n[spaces.q]\nwindow = 900\n[snowflake]\nmax_forward = 5\n"
    )
    chosen = options(loaded(text, where=tmp_path).config)
    assert (chosen.failover, chosen.skip.numbers, chosen.skip.time_ms) == ("skip", 2_000_000, 905_000)
    assert loaded("[stores]\nfailover_gap = 10\n", where=tmp_path).config.stores.failover == "halt"


# --- spaces ---


def test_the_space_default_always_exists_with_leaf_s_layout(tmp_path: Path) -> None:
    for config in (
        Config(),
        Config(spaces={"other": SpaceConfig()}),
        loaded("[spaces.other]\n", where=tmp_path).config,
    ):
        assert config.spaces["default"].layout() == PRESETS["leaf"]
        assert config.spaces["default"].window == 600.0


@pytest.mark.parametrize(
    ("workers", "ids", "window"),
    [("512-1023", range(512, 1024), 600.0), ("0 - 254", range(255), 60.0), ("7", range(7, 8), 60.0)],
)
def test_w10_a_space_restricts_its_worker_ids_and_few_of_them_get_short_windows(
    workers: str, ids: range, window: float, tmp_path: Path
) -> None:
    space = loaded(f"[spaces.q]\nworkers = '{workers}'\n", where=tmp_path).config.spaces["q"]
    assert space.worker_ids() == ids
    assert space.window == window
    assert loaded("[spaces.q]\n", where=tmp_path).config.spaces["q"].worker_ids() is None


@pytest.mark.parametrize(
    ("settings", "host", "number"),
    [
        ("worker = '7'", "anything", 7),
        ("worker = 'ordinal'", "goloves-3", 3),
        ("worker = 'ordinal'", "goloves-0.goloves.ids.svc.cluster.local", 0),
        ("worker = 'ordinal'\nworkers = '512-1023'", "ids12", 524),
        ("worker = '600'\nworkers = '512-1023'", "anything", 600),
    ],
)
def test_w6_a_static_worker_id_is_a_number_or_the_ordinal_of_the_host(
    settings: str, host: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: host)
    space = loaded(f"[spaces.q]\n{settings}\n", where=tmp_path).config.spaces["q"]
    assert space.worker_ids() == range(number, number + 1)
    assert space.window == 60.0


@pytest.mark.parametrize(
    ("settings", "host", "says"),
    [
        ("worker = 'seven'", "goloves-3", r'worker is "seven": worker is a number, as in "7", or "ordinal"'),
        ("worker = '1024'", "goloves-3", "would have the worker id 1024; there are 0 to 1023"),
        ("worker = '7'\nworkers = '512-1023'", "goloves-3", "worker id 7; there are 512 to 1023"),
        ("worker = 'ordinal'", "goloves-7f9c4d-x2x", "host name 'goloves-7f9c4d-x2x' ends in no number"),
        ("worker = 'ordinal'", "10", "host name '10' ends in no number"),
        ("worker = 'ordinal'\nworkers = '0-3'", "goloves-4", "worker id 4; there are 0 to 3"),
        ("worker = '7'\n[server]\nnodes = 2", "goloves-3", "a worker id by hand is one node's"),
    ],
)
def test_w6_a_static_worker_id_that_can_not_be_is_refused_with_what_to_do(
    settings: str, host: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: host)
    with pytest.raises(ConfigProblems, match=says):
        loaded(f"[spaces.q]\n{settings}\n", where=tmp_path)


def test_an_empty_section_makes_a_space(tmp_path: Path) -> None:
    assert set(loaded("[spaces.orders]\n", where=tmp_path).config.spaces) == {"default", "orders"}


@pytest.mark.parametrize("name", ["leaf", "js53", "sonyflake"])
def test_a_preset_gives_its_layout(name: Any) -> None:
    assert SpaceConfig(preset=name).layout() == PRESETS[name]


def test_single_fields_override_the_preset() -> None:
    space = SpaceConfig(preset="js53", worker_bits=5, sequence_bits=10, unit_ms=100, worker_first=False, epoch_ms=0)
    layout = space.layout()
    assert (layout.time_bits, layout.worker_bits, layout.sequence_bits) == (38, 5, 10)
    assert (layout.unit_ms, layout.worker_first, layout.epoch_ms) == (100, False, 0)
    assert SpaceConfig(time_bits=40).layout().epoch_ms == LEAF_EPOCH_MS
    with pytest.raises(ConfigError, match="asks for an epoch"):
        SpaceConfig(preset="uid").layout()


def test_a_space_of_few_workers_has_a_short_window_unless_one_is_set(tmp_path: Path) -> None:
    toml = "[spaces.a]\npreset = 'js53'\n[spaces.b]\npreset = 'js53'\nwindow = 300\n[spaces.c]\nworker_bits = 8\n"
    spaces = loaded(toml, where=tmp_path).config.spaces
    assert {name: space.window for name, space in spaces.items()} == {"a": 60, "b": 300, "c": 600, "default": 600}


# --- lines ---


def test_the_lines_of_keys_are_found_whatever_their_form() -> None:
    text = '''# [comment]
top = """
[not.a.header]
"""
[a]   # header
b.c = 1

"quoted key" = [
  1, # ]
  2,
]
[a.d.e]
f = { g = 1, h = "#" }
[[list]]
x = 1
[[list]]
[ "odd"  .  name ]
'''
    tomllib.loads(text)
    assert key_lines(text) == {
        ("top",): 2,
        ("a",): 5,
        ("a", "b"): 6,
        ("a", "b", "c"): 6,
        ("a", "quoted key"): 8,
        ("a", "d"): 12,
        ("a", "d", "e"): 12,
        ("a", "d", "e", "f"): 13,
        ("a", "d", "e", "f", "g"): 13,
        ("a", "d", "e", "f", "h"): 13,
        ("list",): 14,
        ("list", "x"): 15,
        ("odd",): 17,
        ("odd", "name"): 17,
    }


@given(st.lists(st.sampled_from([*(".".join(key) for key in settings()), "x.y", 'z."a b"']), unique=True, max_size=20))
def test_every_key_of_a_document_has_the_line_that_it_stands_on(keys: list[str]) -> None:
    text = "\n".join(f"{key} = [\n1]" for key in keys)
    found = key_lines(text)
    for number, key in enumerate(keys):
        path = tuple(part.strip('"') for part in key.split("."))
        assert found[path] == 2 * number + 1


# --- addresses ---


@pytest.mark.parametrize(
    ("text", "address", "local"),
    [
        ("127.0.0.1:8080", Address("127.0.0.1", 8080), True),
        ("127.8.0.1:0", Address("127.8.0.1", 0), True),
        ("localhost:80", Address("localhost", 80), True),
        ("[::1]:65535", Address("::1", 65535), True),
        ("0.0.0.0:80", Address("0.0.0.0", 80), False),
        ("[::]:80", Address("::", 80), False),
        ("10.0.0.1:80", Address("10.0.0.1", 80), False),
        ("id.example.org:80", Address("id.example.org", 80), False),
        ("unix:/run/goloves.sock", Address(path="/run/goloves.sock"), True),
    ],
)
def test_an_address_is_read_and_written_and_known_to_be_local(text: str, address: Address, local: bool) -> None:
    assert parse_address(text) == address
    assert str(address) == text
    assert address.is_local is local


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("8080", "the host is missing; 127.0.0.1:8080 is this machine only"),
        (":8080", "the host is missing; 0.0.0.0:8080 is every IPv4 address"),
        ("localhost", "the port is missing"),
        ("/run/x.sock", "a Unix socket is written unix:/run/x.sock"),
        ("unix:", "a Unix socket is unix:/path"),
        ("unix:/" + "x" * 107, "a path of 1 to 107 bytes"),
        ("h:65536", "its port '65536' is not a number from 0 to 65535"),
        ("h:-1", "its port '-1' is not a number"),
        ("h:٣", "is not a number"),
        ("h:", "its port '' is not a number"),
        ("::1:8080", "an IPv6 address stands in brackets: [::1]:8080"),
        ("[::g]:80", "'::g' is no IPv6 address"),
        ("*:80", "'*' is no host"),
        ("http://h:80", "an IPv6 address stands in brackets"),
        ("a b:80", "'a b' is no host"),
    ],
)
def test_what_is_no_address_is_refused_saying_how_to_write_it(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        parse_address(text)


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ("127.0.0.1:80", "127.0.0.1:80", True),
        ("Localhost:80", "localhost:80", True),
        ("0.0.0.0:80", "127.0.0.1:80", True),
        ("[::]:80", "[::1]:80", True),
        ("0.0.0.0:80", "[::1]:80", False),
        ("127.0.0.1:80", "127.0.0.1:81", False),
        ("127.0.0.1:0", "127.0.0.1:0", False),
        ("unix:/a", "unix:/a", True),
        ("unix:/a", "unix:/b", False),
        ("unix:/a", "127.0.0.1:80", False),
    ],
)
def test_addresses_that_cannot_both_be_listened_on_are_known(one: str, other: str, overlap: bool) -> None:
    first, second = parse_address(one), parse_address(other)
    assert first.overlaps(second) is second.overlaps(first) is overlap


# --- the commented file and the reference ---


def test_the_commented_file_is_what_the_code_says() -> None:
    assert (ROOT / "configs" / "goloves.toml").read_text("utf-8") == template(), "run `goloves config template`"


def test_the_reference_is_what_the_code_says() -> None:
    assert (ROOT / "docs" / "configuration.md").read_text("utf-8") == reference(), "run `goloves config reference`"


def test_the_commented_file_sets_everything_to_its_default() -> None:
    result = load(ROOT / "configs" / "goloves.toml", {}, {})
    assert result.config == Config()
    assert len(result.sources) > 30


def test_the_commented_file_is_complete_and_what_is_commented_out_can_be_used(tmp_path: Path) -> None:
    text = re.sub(r"(?m)^# (\"?\w+\"? = )", r"\1", template())
    document = tomllib.loads(text)
    for section in sections():
        table: Any = document
        for part in section:
            table = table["default" if part == ANY else part]
        names = {key[-1] for key in fields(section)}
        assert set(table) == names or names == {ANY}
        assert table
    text = re.sub(r'(?m)^\w+ = "…"$', "", text).replace('"orders" = "orders"', '"orders" = "default"')
    assert {**msgspec.to_builtins(loaded(text, where=tmp_path).config), "leaf": 0, "spaces": 0} == {
        **msgspec.to_builtins(Config()),
        "leaf": 0,
        "spaces": 0,
    }


def test_the_reference_describes_every_setting_and_every_reserved_section() -> None:
    text = reference()
    for key in settings():
        entry = text.partition(f"### `{'.'.join(key)}`\n")[2].partition("\n#")[0]
        assert len(entry.partition(".\n\n")[2]) > 20, key
    for name in LATER:
        assert f"- `[{name}]`: " in text
