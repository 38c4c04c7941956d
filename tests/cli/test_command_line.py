import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import Result

from goloves import __version__
from goloves.cli import COMMANDS, main
from goloves.cli.failures import CODES, EXTRAS, Exit, Failure, failing_well, failure, missing_extra
from goloves.errors import ConfigError, GolovesError, NeedsMigration, StoreUnavailable, UnknownTag


def ending(error: BaseException, *, debug: bool = False) -> tuple[int, str]:
    """How the command line ends on an error: exit code and what stands on standard error."""

    @click.command()
    def command() -> None:
        with failing_well(debug=debug):
            raise error

    from click.testing import CliRunner

    result = CliRunner().invoke(command)
    return result.exit_code, result.stderr


def test_help_is_there_within_an_instant_and_loads_no_command() -> None:
    code = "import sys; from goloves.cli import main; main(['--help'], standalone_mode=False); print(*sys.modules)"
    took: list[float] = []
    # The best of some counts: the machine has other things to do.
    while not took or (min(took) >= 3.0 and len(took) < 3):
        began = time.monotonic()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        took.append(time.monotonic() - began)
    assert min(took) < 3.0, f"ten times what it takes: {took}"
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "goloves.cli" in loaded
    assert not loaded & {"rich", "httpx2", "msgspec", "asyncio", "goloves.config", "goloves.cli.serve"}


def test_help_names_every_command_and_every_exit_code(invoke: Callable[..., Result]) -> None:
    shown = invoke("--help").stdout
    for name, (_, what) in COMMANDS.items():
        assert f"{name} " in shown
        assert what in shown
    for code in Exit:
        assert f"\n  {int(code)} " in shown


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_explains_itself(name: str, invoke: Callable[..., Result]) -> None:
    result = invoke(name, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: goloves {name} ")


def test_the_version_is_that_of_the_package(invoke: Callable[..., Result]) -> None:
    assert invoke("--version").stdout == f"goloves {__version__}\n"


def test_python_m_goloves_is_the_same_command() -> None:
    done = subprocess.run([sys.executable, "-m", "goloves", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"goloves {__version__}\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nxt"], "there is no command 'nxt'; did you mean next?"),
        (["xyzzy"], "there is no command 'xyzzy'; there are serve, next, decode"),
        (["next", "--cuont", "3"], "No such option '--cuont'"),
        (["tag", "shw"], "No such command 'shw'"),
        (["decode"], "Missing argument 'ID...'"),
    ],
)
def test_a_mistyped_command_is_a_usage_error(words: list[str], says: str, invoke: Callable[..., Result]) -> None:
    result = invoke(*words)
    assert result.exit_code == Exit.USAGE
    assert says in result.stderr
    assert result.stdout == ""


def test_a_reload_that_meets_a_wrong_configuration_says_that_a_service_goes_on(
    invoke: Callable[..., Result], directory: Path
) -> None:
    (directory / "wrong.toml").write_text("[http]\nlistne = 1\n")
    result = invoke("reload", "--config", "wrong.toml")
    assert result.exit_code == Exit.CONFIG
    assert "the configuration can't be used; a service that runs goes on as before\n" in result.stderr
    assert "listne" in result.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), Exit.CONFIG),
        (UnknownTag("x"), Exit.NOT_FOUND),
        (StoreUnavailable("x"), Exit.UNAVAILABLE),
        (NeedsMigration("x"), Exit.FAILED),
        (GolovesError("x"), Exit.FAILED),
        (Failure("x", Exit.USAGE), Exit.USAGE),
    ],
)
def test_an_error_of_our_own_ends_in_its_message_and_exit_code(error: Exception, code: Exit) -> None:
    assert ending(error) == (code, "error: x\n")


def test_every_error_has_an_exit_code_and_none_is_success() -> None:
    def below(kind: type[GolovesError]) -> set[type[GolovesError]]:
        return {kind}.union(*(below(each) for each in kind.__subclasses__()))

    for kind in below(GolovesError):
        code = next(code for each, code in CODES if issubclass(kind, each))
        assert code != Exit.DONE


def test_several_problems_stand_below_one_another() -> None:
    assert ending(ConfigError("first\nsecond")) == (
        Exit.CONFIG,
        "error: the configuration can't be used; nothing was started\n  first\n  second\n",
    )
    assert failure(ConfigError("alone")).message == "alone"


def test_the_unexpected_is_one_line_and_says_where_details_are() -> None:
    code, shown = ending(ZeroDivisionError("by zero"))
    assert code == Exit.FAILED
    assert shown == (
        "error: unexpected: ZeroDivisionError: by zero; give --debug before the command to see where it happened\n"
    )


def test_with_debug_the_unexpected_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError), failing_well(debug=True):
        raise ZeroDivisionError
    code = "import sys; sys.modules['goloves.cli.ids'] = None; from goloves.cli import main; main()"
    for words, traceback in ((["--debug", "decode", "1"], True), (["decode", "1"], False)):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert ("Traceback" in done.stderr) is traceback


def test_ctrl_c_ends_in_its_own_exit_code() -> None:
    assert ending(KeyboardInterrupt()) == (Exit.INTERRUPTED, "error: interrupted\n")


def test_a_reader_that_has_seen_enough_is_no_failure_to_speak_of() -> None:
    command = f"{sys.executable} -m goloves config template | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stderr == ""


@pytest.mark.parametrize(("module", "extra"), EXTRAS.items())
def test_a_missing_extra_is_named(module: str, extra: str) -> None:
    for debug in (False, True):
        code, shown = ending(ModuleNotFoundError(f"No module named '{module}'", name=f"{module}.inner"), debug=debug)
        assert code == Exit.CONFIG
        assert shown == f"error: this needs {module}, which is not installed: pip install 'goloves[{extra}]'\n"


def test_a_module_that_no_extra_brings_is_unexpected() -> None:
    assert missing_extra(ModuleNotFoundError("No module named 'x'", name="x")) is None
    assert "unexpected: ModuleNotFoundError" in ending(ModuleNotFoundError("No module named 'x'", name="x"))[1]


def without_extras(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a command line where nothing is installed but what the package alone brings."""
    code = f"import sys\nfor name in {sorted(EXTRAS)!r}: sys.modules[name] = None\nfrom goloves.cli import main\nmain()"
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("command", ["serve", "migrate", "check", "tag list"])
def test_without_the_server_s_extra_the_commands_that_need_it_name_it(command: str) -> None:
    done = without_extras(*command.split())
    assert done.returncode == Exit.CONFIG, done.stderr
    assert "pip install 'goloves[server]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_the_extras_ids_can_be_asked_for_and_decoded() -> None:
    assert without_extras("decode", "1").stdout.startswith("time      2010-11-04T01:42:54.657Z\n")
    assert without_extras("config", "show").returncode == Exit.DONE
    asked = without_extras("next", "order", "--server", "127.0.0.1:1")
    assert asked.returncode == Exit.UNAVAILABLE
    assert "can't be reached" in asked.stderr


def test_the_group_can_be_told_another_name() -> None:
    with pytest.raises(click.UsageError) as caught:
        main(["nxt"], prog_name="ids", standalone_mode=False)
    assert caught.value.ctx is not None
    assert caught.value.ctx.command_path == "ids"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_the_script_of_a_shell(shell: str, invoke: Callable[..., Result]) -> None:
    script = invoke("completion", shell).stdout
    assert f"_GOLOVES_COMPLETE={shell}_complete" in script


def test_completion_takes_the_shell_of_the_environment(
    invoke: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHELL", "/usr/bin/fish")
    assert "fish_complete" in invoke("completion").stdout
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    assert "name the shell: bash, zsh, fish" in invoke("completion").stderr


def test_the_completion_script_completes_commands_and_options() -> None:
    words = {"COMP_WORDS": "goloves ta", "COMP_CWORD": "1", "_GOLOVES_COMPLETE": "bash_complete"}
    done = subprocess.run(
        ["env", *(f"{name}={value}" for name, value in words.items()), sys.executable, "-m", "goloves"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "plain,tag\n"
