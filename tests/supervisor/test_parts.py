"""The supervisor's parts by themselves: what a change asks for, how long to wait, what is said, what a line carries."""

import asyncio
import os
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from goloves.config import Config, load
from goloves.config.rules import MOST_NODES
from goloves.config.settings import LogConfig
from goloves.errors import ConfigError, ShuttingDown, Unavailable
from goloves.server.balance import PLACES
from goloves.stores.base import Mark
from goloves.stores.marks import Marks, lock_directory
from goloves.supervisor.changes import Changes, changes
from goloves.supervisor.child import Child, interpreter, node_environment, said_of_end
from goloves.supervisor.cores import cores
from goloves.supervisor.messages import (
    ANSWERS,
    LONGEST,
    ORDERS,
    Drain,
    Failed,
    Line,
    Report,
    Setup,
    decoded,
    read_setup,
)
from goloves.supervisor.notify import Notifier
from goloves.supervisor.open_listeners import OpenListeners
from goloves.supervisor.orders import Request, check_alive, connect, short_path
from goloves.supervisor.passing import passed, received
from goloves.supervisor.post import LONGEST_WAIT, LOOP, STEADY, Post
from goloves.supervisor.rolling import READY_WITHIN, RollingFailed, has_room, ready_within, roll
from goloves.supervisor.seats import Seat, lock_service, note_holder, seats_in_use, take_seat
from goloves.supervisor.supervisor import Supervisor, how_many


def config(toml: str, tmp_path: Path) -> Config:
    file = tmp_path / "g.toml"
    file.write_text(toml)
    return load(file, {}, {}).config


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("", "", Changes()),
        ("", "[log]\nlevel = 'debug'\n", Changes(live=["log.level"])),
        ("", "[segment]\ntarget = 5\n", Changes(rolling=["segment.target"])),
        ("", "[http]\nlisten = ['127.0.0.1:1']\n", Changes(restart=["http.listen"])),
        ("", "[admin]\nlisten = ''\n", Changes(restart=["admin.listen"])),
        ("", "[server]\nnodes = 2\n", Changes(rolling=["server.nodes"])),
        ("", "[server]\nnodes = 0\n", Changes(restart=["server.nodes"])),
        ("", "[stores]\nwindows = 'sqlite:///other.db'\n", Changes(restart=["stores.windows"])),
        ("", "[spaces.web]\npreset = 'js53'\nwindow = 60\n", Changes(rolling=["spaces.web.preset"])),
        (
            "[stores]\nurl = 'mysql://u:old@h/d'\n",
            "[stores]\nurl = 'mysql://u:new@h/d'\n",
            Changes(rolling=["stores.url"]),
        ),
        (
            "[stores]\nurl = 'mysql://u:p@h/d'\n",
            "[stores]\nurl = 'mysql://u:p@h2/d'\n",
            Changes(restart=["stores.url"]),
        ),
    ],
)
def test_a_change_asks_for_what_it_takes_and_no_more(before: str, after: str, says: Changes, tmp_path: Path) -> None:
    found = changes(config(before, tmp_path), config(after, tmp_path))
    assert found.live == says.live
    assert found.restart == says.restart
    assert set(says.rolling) <= set(found.rolling)
    assert bool(found.rolling) == bool(says.rolling)


def test_a_node_that_ends_again_and_again_is_replaced_more_and_more_slowly() -> None:
    post = Post()
    waits = [post.wait(1.0) for _ in range(12)]
    assert waits[:4] == [0.0, 0.1, 0.2, 0.4]
    assert waits == sorted(waits)
    assert waits[-1] == LONGEST_WAIT
    assert post.loops
    assert post.restarts == 12
    post.is_steady(STEADY - 1)
    assert post.loops
    post.is_steady(STEADY)
    assert not post.loops
    assert post.wait(1.0) == 0.0
    for _ in range(LOOP):
        assert post.wait(STEADY) == 0.0, "long lives are no loop"
    assert not post.loops


def test_auto_heeds_the_share_of_the_processors_of_a_container_and_of_a_unit(tmp_path: Path) -> None:
    mine = len(os.sched_getaffinity(0))
    membership = tmp_path / "membership"
    unit = tmp_path / "system.slice" / "goloves.service"
    unit.mkdir(parents=True)

    def found(container: str, slice_: str, own: str, group: str = "0::/system.slice/goloves.service") -> int:
        membership.write_text(f"3:cpu:/other\n{group}\n")
        for directory, quota in ((tmp_path, container), (unit.parent, slice_), (unit, own)):
            (directory / "cpu.max").write_text(f"{quota}\n")
        return cores(tmp_path, membership)

    none, one, many = "max 100000", "50000 100000", f"{(mine + 5) * 100_000} 100000"
    assert cores(tmp_path, membership) == mine, "there are no groups"
    assert found(none, none, none) == found(many, many, many) == mine
    assert found(one, none, many) == found(none, one, none) == found(none, none, one) == 1
    assert found(none, none, one, "0::/") == found(none, none, one, "0::/../goloves.service") == mine


def test_room_for_one_more_node_is_judged_by_the_smallest_space(tmp_path: Path) -> None:
    few = config("[spaces.few]\nworkers = '4-6'\n", tmp_path)
    assert has_room(few, 3)
    assert not has_room(few, 4)
    assert has_room(config("", tmp_path), 65)


def test_a_new_node_has_time_for_a_window_to_end_where_worker_ids_are_few(tmp_path: Path) -> None:
    assert ready_within(100, config("[spaces.default]\nwindow = 900\n", tmp_path)) == READY_WITHIN
    few = config("[spaces.few]\nworkers = '4-7'\nwindow = 90\n", tmp_path)
    assert ready_within(2, few) == READY_WITHIN
    assert ready_within(3, few) == READY_WITHIN + 90
    static = config("[spaces.default]\nworker = '7'\nwindow = 300\n", tmp_path)
    assert ready_within(1, static) == READY_WITHIN + 300
    assert ready_within(3, few, static) == ready_within(3, static, few) == READY_WITHIN + 300


async def test_a_node_that_follows_another_on_a_static_worker_id_is_waited_for_as_long_as_a_window_may_last(
    tmp_path: Path,
) -> None:
    before = config("[spaces.default]\nworker = '7'\nwindow = 200\n", tmp_path)
    after = config("[spaces.default]\nworker = '7'\nwindow = 30\n", tmp_path)
    waited: list[float] = []

    class Waiting:
        """A supervisor whose new node never comes."""

        config = before
        posts = (Post(),)
        changing = asyncio.Lock()
        serving = asyncio.Event()
        stopping = asyncio.Event()

        def __getattr__(self, name: str) -> Any:
            return lambda *_: None

        async def until(self, holds: Any, within: float) -> bool:
            waited.append(within)
            return False

    Waiting.serving.set()
    with pytest.raises(RollingFailed, match="did not start"):
        await roll(Waiting(), after, lambda words: None)  # type: ignore[arg-type]
    assert waited == [READY_WITHIN + 200]


async def test_nodes_of_a_service_that_starts_or_stops_are_not_replaced(tmp_path: Path) -> None:
    supervisor = Supervisor(config("", tmp_path), OpenListeners(), None)
    with pytest.raises(RollingFailed, match="it starts, stops or replaces nodes at this moment; try again"):
        await roll(supervisor, supervisor.config, lambda words: None)
    supervisor.serving.set()
    supervisor.stopping.set()
    with pytest.raises(RollingFailed, match="it starts, stops or replaces nodes at this moment; try again"):
        await roll(supervisor, supervisor.config, lambda words: None)


@pytest.mark.parametrize("space", ["", "[spaces.default]\nworker = '7'\n"], ids=["new one first", "old one first"])
async def test_a_stop_in_the_middle_of_a_rolling_restart_is_told_as_what_it_is_and_has_the_last_word(
    space: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor = Supervisor(config(space, tmp_path), OpenListeners(), None)
    supervisor.serving.set()
    supervisor.posts = [Post()]
    new = Child(Seat(0, None), 0, 10.0)

    async def spawn(*_: object, **__: object) -> Child:
        return new

    async def until(*_: object) -> bool:
        supervisor.stopping.set()
        return False

    monkeypatch.setattr(supervisor, "spawn", spawn)
    monkeypatch.setattr(supervisor, "until", until)
    with pytest.raises(ShuttingDown, match="the service is stopping"):
        await roll(supervisor, supervisor.config, lambda words: None)
    assert not new.leaving, "how it is to drain, the stop tells it"


def test_the_watchdog_s_word_is_given_only_to_the_process_that_it_is_asked_of() -> None:
    assert Notifier({}).watchdog is None
    assert Notifier({"WATCHDOG_USEC": "3000000"}).watchdog == 3.0
    assert Notifier({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}).watchdog == 3.0
    assert Notifier({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}).watchdog is None
    assert Notifier({"WATCHDOG_USEC": "soon"}).watchdog is None
    assert Notifier({"WATCHDOG_USEC": "200000"}).due(0.5) == 0.1
    assert Notifier({"WATCHDOG_USEC": "30000000"}).due(0.5) == 0.5
    assert Notifier({}).due(0.5) == 0.5


def test_a_service_manager_that_is_not_there_is_no_trouble(tmp_path: Path) -> None:
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "nowhere")}).ready("all is well")


def test_nodes_are_not_told_what_the_service_manager_says_to_the_supervisor() -> None:
    given = {"PATH": "p", "NOTIFY_SOCKET": "n", "WATCHDOG_USEC": "1", "LISTEN_FDS": "3", "GOLOVES_STORE": "s"}
    assert node_environment(given) == {"PATH": "p", "GOLOVES_STORE": "s"}


def test_a_node_s_interpreter_does_not_look_for_modules_where_the_service_happens_to_be_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "-P" in interpreter()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "-P" not in interpreter(), "the supervisor itself was found there"


def test_an_end_is_told_in_words() -> None:
    assert said_of_end(-9) == "killed by SIGKILL"
    assert said_of_end(70) == "out of memory"
    assert said_of_end(-14) == "ended by its alarm: it had no turn for too long"
    assert said_of_end(3) == "exit code 3"


async def test_a_post_is_looked_after_whatever_keeps_a_node_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor = Supervisor(config("", tmp_path), OpenListeners(), None)
    started = asyncio.Event()
    faults: list[Exception] = [RuntimeError("unforeseen"), OSError("no room")]

    async def spawn(*_: object, **__: object) -> object:
        if faults:
            raise faults.pop(0)
        started.set()
        supervisor.stopping.set()
        raise ShuttingDown("it stops")

    monkeypatch.setattr(supervisor, "spawn", spawn)
    supervisor.resize(config("", tmp_path))
    async with asyncio.timeout(20):
        await started.wait()
    assert not faults
    assert supervisor.posts[0].restarts == 2


async def test_a_node_that_dies_while_its_successor_starts_is_told_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = Supervisor(config("", tmp_path), OpenListeners(), None)
    post = Post()
    old, new = (Child(Seat(number, None), number, 10.0) for number in range(2))
    post.child, post.successor = old, new
    supervisor.posts = [post]
    keeping = asyncio.create_task(supervisor._keep_post(post))
    old.ended.set_result(-9)
    old.going.set_result(None)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert post.child is new
    assert post.successor is None
    assert supervisor.counters()["node_restarts"] == 1
    assert "a node died and is replaced node=0 how='killed by SIGKILL'" in caplog.text
    assert not post.in_a_row
    supervisor.stopping.set()
    new.going.set_result(None)
    await keeping
    assert supervisor.counters()["node_restarts"] == 1


async def test_restarts_of_posts_that_are_no_more_still_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    supervisor = Supervisor(config("", tmp_path), OpenListeners(), None)
    supervisor.posts = [Post(), Post()]
    supervisor.posts[1].wait(1.0)
    supervisor.resize(config("[server]\nnodes = 1\n", tmp_path))
    assert len(supervisor.posts) == 1
    assert supervisor.counters()["node_restarts"] == 1


def test_auto_starts_no_more_nodes_than_there_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("goloves.supervisor.supervisor.cores", lambda: 1000)
    assert how_many(config("[server]\nnodes = 'auto'\n", tmp_path)) == MOST_NODES <= PLACES // 2
    assert how_many(config("[server]\nnodes = 3\n", tmp_path)) == 3


# --- the line ---


def test_settings_arrive_as_they_are_and_only_what_was_set_is_passed(tmp_path: Path) -> None:
    chosen = config("[spaces.web]\npreset = 'js53'\n[log]\nlevel = 'debug'\n[leaf]\nspaces = {a = 'web'}\n", tmp_path)
    data = passed(chosen)
    assert received(data, Config) == chosen
    assert set(msgspec.json.decode(data)) == {"spaces", "log", "leaf"}
    assert received(passed(Config()), Config) == Config()


def test_a_setting_of_another_version_is_in_nobody_s_way_until_it_is_set() -> None:
    class Newer(LogConfig, frozen=True):
        colour: str = "none"

    assert received(passed(Newer(level="error")), LogConfig) == LogConfig(level="error")
    with pytest.raises(msgspec.ValidationError, match="colour"):
        received(passed(Newer(colour="red")), LogConfig)


def test_a_node_that_is_told_what_it_does_not_know_names_it_and_does_not_start() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = subprocess.Popen(
            [*interpreter(), "-m", "goloves.supervisor.inside", str(theirs.fileno()), "node-0"],
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        setup = Setup(msgspec.Raw(b'{"server":{"colour":"red"}}'), 0, [], None, 0, 0)
        ours.sendall(msgspec.json.encode(setup) + b"\n")
        ours.settimeout(60)
        answer = decoded(ANSWERS, ours.recv(65_536))
        assert process.wait(60) == 1
    assert isinstance(answer, Failed)
    assert "can't read what it is told" in answer.message
    assert "colour" in answer.message


def test_the_setup_is_read_to_its_last_byte_and_not_beyond() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        setup = Setup(msgspec.Raw(b"{}"), 3, [], None, 7, 1)
        ours.sendall(msgspec.json.encode(setup) + b"\n" + msgspec.json.encode(Drain()) + b"\n")
        assert read_setup(theirs) == setup
        assert decoded(ORDERS, theirs.recv(100)) == Drain()


def test_a_supervisor_that_ends_before_the_setup_ends_the_node() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        ours.close()
        with pytest.raises(EOFError):
            read_setup(theirs)


def test_what_another_version_added_is_left_out_and_what_it_lacks_has_a_default() -> None:
    assert decoded(ANSWERS, b'{"type":"report","stage":"serving","reasons":[],"mood":"good"}') == Report("serving", [])
    assert decoded(ANSWERS, b'{"type":"song"}') is None
    assert decoded(ANSWERS, b"\xff") is None


async def test_reports_are_left_out_while_nobody_reads_them_and_orders_are_not() -> None:
    ours, theirs = socket.socketpair()
    loop = asyncio.get_running_loop()
    line = Line(lambda _: None, lambda: None)
    ours.setblocking(False)
    transport, _ = await loop.create_unix_connection(lambda: line, sock=ours)
    assert isinstance(transport, asyncio.WriteTransport)
    with theirs:
        for _ in range(100):
            line.say(Report("serving", ["x" * 50_000]), important=False)
        held = transport.get_write_buffer_size()
        assert held < 1_000_000
        line.say(Drain())
        assert transport.get_write_buffer_size() > held
        transport.abort()
        await asyncio.sleep(0)


async def test_a_line_without_an_end_is_hung_up_on() -> None:
    heard: list[bytes] = []
    lost = asyncio.Event()
    line = Line(heard.append, lost.set)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.create_unix_connection(lambda: line, sock=ours)
    with theirs:

        async def flood() -> None:
            for _ in range(LONGEST // 65_536 + 10):
                await loop.sock_sendall(theirs, b"x" * 65_536)

        flooding = asyncio.create_task(flood())
        async with asyncio.timeout(20):
            await lost.wait()
        flooding.cancel()
        await asyncio.gather(flooding, return_exceptions=True)
    assert heard == []


# --- state directories ---


def test_p1_a_state_directory_is_one_node_s_as_long_as_its_process_has_the_lock(tmp_path: Path) -> None:
    def free(taken: tuple[int, ...] = ()) -> int:
        seat = take_seat(tmp_path, taken)
        assert seat.lock is not None
        seat.lock.close()
        return seat.number

    first = take_seat(tmp_path, ())
    assert first.number == 0
    assert first.lock is not None
    assert seats_in_use(tmp_path) == {0: ""}
    note_holder(first.lock, 123)
    assert seats_in_use(tmp_path) == {0: "123"}
    note_holder(first.lock, 45)
    assert seats_in_use(tmp_path) == {0: "45"}
    assert free() == 1
    kept = os.dup(first.lock.fileno())  # as the node has it that was started with it
    first.lock.close()
    assert free() == 1
    os.close(kept)
    assert free((0,)) == 1, "a number that this supervisor uses still"
    assert free() == 0


def test_a_data_directory_belongs_to_one_service(tmp_path: Path) -> None:
    lock = lock_service(tmp_path / "data")
    assert lock is not None
    with pytest.raises(ConfigError, match="belongs to a node that is running"):
        lock_service(tmp_path / "data")
    lock.close()
    again = lock_service(tmp_path / "data")
    assert again is not None
    again.close()


def test_r5_a_node_knows_the_marks_of_those_beside_it_whatever_directory_it_got(tmp_path: Path) -> None:
    before = Marks()
    before.open(tmp_path / "node-1")
    before.rise("store", Mark("tag", "order", 700))
    now = Marks()
    now.open(tmp_path / "node-0", lock_directory(tmp_path / "node-0"))
    assert now.tag("store", "order") == 700, "also while the other one runs"
    before.close()
    now.close()
    (tmp_path / "node-1" / "marks").unlink()
    later = Marks()
    later.open(tmp_path / "node-2")
    assert later.tag("store", "order") == 700, "and it is noted in its own directory"
    later.close()
    apart = Marks()
    apart.open(tmp_path / "elsewhere" / "node-0")
    assert apart.tag("store", "order") == -1
    apart.close()


def test_marks_of_a_later_version_beside_it_do_not_keep_a_node_from_starting(tmp_path: Path) -> None:
    (tmp_path / "node-1").mkdir()
    (tmp_path / "node-1" / "marks").write_text("goloves marks 99\n")
    marks = Marks()
    marks.open(tmp_path / "node-0")
    marks.close()
    with pytest.raises(ConfigError, match="written by another version"):
        Marks().open(tmp_path / "node-1")


def test_a_socket_of_orders_is_reached_however_long_its_path_is(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as listener:
        with short_path(deep / "control") as short:
            listener.bind(short)
        listener.listen()
        found: Any = connect(deep)
        assert found is not None
        found.close()
    assert connect(deep) is None
    assert connect(tmp_path / "nowhere") is None


@pytest.mark.parametrize("answer", [b"", b'{"done":true}\n', b'{"done":true,"error":"it knows no order \'alive\'"}\n'])
def test_a_supervisor_is_asked_whether_it_is_alive_before_it_is_given_an_order(tmp_path: Path, answer: bytes) -> None:
    assert not check_alive(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "control"))
        listener.listen(1)

        def answers() -> None:
            connection, _ = listener.accept()
            with connection:
                assert msgspec.json.decode(connection.recv(100), type=Request).do == "alive"
                connection.sendall(answer)

        with ThreadPoolExecutor(1) as other:
            if answer:
                done = other.submit(answers)
                assert check_alive(tmp_path), "also one that knows no such question"
                done.result()
                return
            for _ in range(3):  # the last ones find no room to wait in
                with pytest.raises(Unavailable, match="does not answer; nothing was ordered"):
                    check_alive(tmp_path, 0.01)
