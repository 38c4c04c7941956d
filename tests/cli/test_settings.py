import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from goloves.cli.failures import Exit
from goloves.config.document import reference, template

Invoke = Callable[..., Result]


def test_config_shows_each_setting_with_its_value_and_source(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "g.toml").write_text("[segment]\ndeadline = 1\n")
    lines = invoke("config", "show", "--config", "g.toml", "--data-dir", "/d").stdout.splitlines()
    cells = {line.split()[0]: line.split()[1:] for line in lines[2:]}
    assert cells["segment.deadline"] == ["1.0", "g.toml:2"]
    assert cells["server.data_dir"] == ['"/d"', "--data-dir"]
    assert cells["log.level"] == ['"info"', "default"]
    assert cells["spaces.default.preset"] == ['"leaf"', "default"]


def test_config_alone_shows_what_is_in_force(invoke: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "g.toml").write_text("[segment]\ndeadline = 1\n")
    monkeypatch.setenv("GOLOVES_CONFIG", "g.toml")
    shown = invoke("config").stdout
    assert shown == invoke("config", "show").stdout
    assert "g.toml:2" in shown


def test_a_configuration_file_that_was_not_named_is_not_read(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "goloves.toml").write_text("nonsense")
    assert invoke("config", "show", "--set").stdout.splitlines()[2:] == []


def test_config_can_leave_out_the_defaults(invoke: Invoke) -> None:
    found = json.loads(invoke("config", "show", "--set", "--json", "--data-dir", "/d").stdout)
    assert found == {"server.data_dir": {"value": "/d", "source": "--data-dir"}}


@pytest.mark.parametrize("words", [["config", "show"], ["config", "show", "--json"], ["check"]])
def test_no_output_shows_a_password(words: list[str], invoke: Invoke, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("geheim")
    (tmp_path / "g.toml").write_text(
        f"[stores]\nurl = 'mysql://u@127.0.0.1:1/d'\nwindows = 'postgresql://u:geheim@127.0.0.1:1/d'\n"
        f"password_file = '{secret}'\ntimeout = 0.3\n"
    )
    result = invoke(*words, "--config", "g.toml")
    assert "geheim" not in result.output
    assert "127.0.0.1:1/d" in result.output


def test_problems_are_listed_and_end_in_their_exit_code(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "g.toml").write_text("[segment]\ndedline = 1\ntarget = 0\n")
    result = invoke("config", "show", "--config", "g.toml")
    assert result.exit_code == Exit.CONFIG
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "error: the configuration can't be used; nothing was started",
        "  g.toml:2: there is no setting segment.dedline; did you mean segment.deadline?",
        "  g.toml:3: segment.target is 0.0; it has to be 1 to 86400 s, for a range that lasts longer is lost whole at "
        "each restart",
    ]


def test_a_variable_that_sets_nothing_is_noted(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOLOVES_SOMETHING_ELSE", "1")
    assert "note: the variable GOLOVES_SOMETHING_ELSE sets nothing" in invoke("config", "show").stderr


def test_template_and_reference_are_those_of_the_code(invoke: Invoke) -> None:
    assert invoke("config", "template").stdout == template()
    assert invoke("config", "reference").stdout == reference()


def test_the_template_can_be_used_as_it_is(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "g.toml").write_text(invoke("config", "template").stdout, encoding="utf-8")
    assert invoke("config", "show", "--config", "g.toml").exit_code == 0
