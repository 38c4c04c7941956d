"""What a peer may do only so often: each flood ends the connection, and what honest clients do does not."""

from collections.abc import Callable

import pytest

from goloves.wire.http2 import Allowance, Code, Limits, RequestReceived, RequestTooLarge
from goloves.wire.http2.frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    Kind,
    Setting,
    ping_frame,
    reset_frame,
    settings_frame,
)
from goloves.wire.http2.limits import Budget
from wire.h2peer import Peer, data, frame, setting, window_frame

FRAMES = 30_000


def flood(peer: Peer, make: Callable[[int], bytes], most: int = FRAMES) -> int:
    """Feed frames until the connection fails; give how many that took."""
    for number in range(most):
        peer.feed(make(number))
        if peer.connection.failed:
            return number
    return most


def rapid_reset(peer: Peer) -> Callable[[int], bytes]:
    return lambda n: peer.headers(2 * n + 1) + reset_frame(2 * n + 1, Code.CANCEL)


def provoked_by_window(peer: Peer) -> Callable[[int], bytes]:
    return lambda n: peer.headers(2 * n + 1, end=True) + window_frame(2 * n + 1, 0)


def provoked_by_data(peer: Peer) -> Callable[[int], bytes]:
    return lambda n: peer.headers(2 * n + 1, end=True) + data(2 * n + 1)


def provoked_by_malformed(peer: Peer) -> Callable[[int], bytes]:
    return lambda n: peer.headers(2 * n + 1, [(b":method", b"GET")])


def provoked_by_length(peer: Peer) -> Callable[[int], bytes]:
    return lambda n: peer.headers(2 * n + 1, more=[(b"content-length", b"1")], end=True)


def provoked_by_priority(peer: Peer) -> Callable[[int], bytes]:
    return lambda n: peer.headers(2 * n + 1, end=True) + frame(Kind.PRIORITY, 0, 2 * n + 1, b"\0\0\0\0")


RESETS = [
    rapid_reset,
    provoked_by_window,
    provoked_by_data,
    provoked_by_malformed,
    provoked_by_length,
    provoked_by_priority,
]


@pytest.mark.parametrize("attack", RESETS)
def test_resets_of_either_side_are_limited(attack: Callable[[Peer], Callable[[int], bytes]]) -> None:
    """CVE-2023-44487 and CVE-2025-8671."""
    peer = Peer()
    assert flood(peer, attack(peer)) <= 1001
    assert peer.goaway is Code.ENHANCE_YOUR_CALM


CHATTER: dict[str, Callable[[int], bytes]] = {
    "empty SETTINGS": lambda n: settings_frame([]),
    "SETTINGS that change all windows": lambda n: setting(Setting.INITIAL_WINDOW_SIZE, n % 1000),
    "acknowledgements of SETTINGS": lambda n: frame(Kind.SETTINGS, ACK, 0),
    "answers to PINGs that nobody sent": lambda n: ping_frame(b"12345678", ack=True),
    "PRIORITY": lambda n: frame(Kind.PRIORITY, 0, 3, b"\0\0\0\0\1"),
    "PRIORITY of idle streams": lambda n: frame(Kind.PRIORITY, 0, 2 * n + 9, b"\0\0\0\0\1"),
    "empty DATA": lambda n: data(1, b""),
    "DATA that is all padding": lambda n: frame(Kind.DATA, 8, 1, b"\x05" + bytes(5)),
    "WINDOW_UPDATEs of a call by one octet": lambda n: window_frame(1, 1),
    "WINDOW_UPDATEs of the connection by one octet": lambda n: window_frame(0, 1),
    "WINDOW_UPDATEs of closed streams": lambda n: window_frame(3, 1),
    "unknown frames": lambda n: b"\0\0\1\xf1\0\0\0\0\0x",
    "GOAWAY": lambda n: frame(Kind.GOAWAY, 0, 0, bytes(8)),
    "empty DATA on calls that we gave up": lambda n: data(5, b""),
    "octets on calls that we gave up": lambda n: data(5, b"x"),
    "trailers on calls that we gave up": lambda n: frame(Kind.HEADERS, END_HEADERS | END_STREAM, 5, b""),
}


@pytest.mark.parametrize("what", CHATTER)
def test_frames_that_move_no_call_on_are_limited(what: str) -> None:
    peer = Peer()
    peer.open(1)
    peer.open(5)
    peer.connection.reset(5, Code.CANCEL)
    assert flood(peer, CHATTER[what]) <= 10_001
    assert peer.goaway is Code.ENHANCE_YOUR_CALM


def test_settings_cost_more_the_more_calls_they_change() -> None:
    peer = Peer()
    for stream in range(1, 2001, 2):
        peer.open(stream)
    assert flood(peer, CHATTER["SETTINGS that change all windows"]) < 100


def test_a_frame_of_settings_that_change_all_windows_again_and_again_walks_through_the_calls_once() -> None:
    peer = Peer()
    for stream in range(1, 2001, 2):
        peer.open(stream)
    walks = 0

    class Streams(dict[int, object]):
        def values(self) -> object:  # type: ignore[override]
            nonlocal walks
            walks += 1
            return super().values()

    peer.connection._streams = Streams(peer.connection._streams)  # type: ignore[assignment]
    peer.feed(settings_frame([(Setting.INITIAL_WINDOW_SIZE, 1000 + number) for number in range(32)]))
    assert peer.goaway is None
    assert walks == 1
    assert peer.connection._streams[1].send_window == 1031


def test_requests_that_are_too_large_are_limited_by_what_it_takes_to_read_them() -> None:
    peer = Peer()

    def attack(number: int) -> bytes:
        for event in peer.events:
            if isinstance(event, RequestTooLarge):
                peer.connection.end_answer(event.stream, b"\x88")
        peer.events.clear()
        fields = frame(Kind.HEADERS, END_STREAM, 2 * number + 1, b"\x82" * 16_000)
        return fields + frame(Kind.CONTINUATION, END_HEADERS, 2 * number + 1, b"\x82" * 16_000)

    assert 10 < flood(peer, attack) < 40
    assert peer.goaway is Code.ENHANCE_YOUR_CALM


def test_trailers_that_are_too_large_are_limited_by_what_it_takes_to_read_them() -> None:
    peer = Peer()
    block = b"\x82" * 16_000
    assert flood(peer, lambda n: peer.headers(2 * n + 1) + frame(Kind.HEADERS, 5, 2 * n + 1, block)) < 60
    assert peer.goaway is Code.ENHANCE_YOUR_CALM


def test_a_window_that_opens_byte_by_byte_costs_one_frame_each_time_however_many_calls_wait() -> None:
    peer = Peer()
    peer.feed(setting(Setting.INITIAL_WINDOW_SIZE, 2**20))
    for stream in range(1, 401, 2):
        peer.open(stream, end=True)
        peer.answer(stream, b"x" * 1000)
    peer.sent.clear()
    for _ in range(50):
        before = len(peer.of(Kind.DATA))
        peer.feed(window_frame(0, 1))
        assert len(peer.of(Kind.DATA)) == before + 1


class TestBlocks:
    def test_continuations_are_limited_in_number(self) -> None:
        """CVE-2024-27316."""
        peer = Peer()
        peer.feed(frame(Kind.HEADERS, 0, 1, b""))
        assert flood(peer, lambda n: frame(Kind.CONTINUATION, 0, 1, b"")) == Limits().continuations
        assert peer.goaway is Code.ENHANCE_YOUR_CALM

    def test_continuations_are_limited_in_size(self) -> None:
        peer = Peer()
        peer.feed(frame(Kind.HEADERS, 0, 1, b"x" * 16_000))
        assert flood(peer, lambda n: frame(Kind.CONTINUATION, 0, 1, b"x" * 16_000)) == 1
        assert peer.goaway is Code.ENHANCE_YOUR_CALM

    def test_a_bomb_of_references_is_refused_and_forgotten(self) -> None:
        """A field of 4,000 octets, then thousands of references to it."""
        peer = Peer()
        bomb = (
            b"\x40\x01x\x7f" + bytes((0x80 | (3900 - 127) & 0x7F, (3900 - 127) >> 7)) + b"v" * 3900 + b"\xbe" * 12_000
        )
        peer.feed(frame(Kind.HEADERS, END_HEADERS, 1, bomb))
        assert not any(isinstance(event, RequestReceived) for event in peer.events)
        assert peer.goaway is None
        assert peer.connection._decoder.table_size <= 4096

    def test_the_table_never_grows_over_its_limit(self) -> None:
        peer = Peer()
        for number in range(300):
            peer.feed(peer.headers(2 * number + 1, more=[(b"x-%d" % number, b"y" * 500)], end=True))
            assert peer.connection._decoder.table_size <= 4096


class TestPings:
    """As grpc specifies (gRFC A8): one in five minutes while there are calls, and nothing was sent to the client."""

    @staticmethod
    def ping(peer: Peer, after: float) -> None:
        peer.now += after
        peer.feed(ping_frame(b"12345678", ack=False))

    def test_the_third_that_comes_too_early_ends_the_connection(self) -> None:
        peer = Peer()
        peer.open(1)
        self.ping(peer, 0)
        for _ in range(2):
            self.ping(peer, 10)
            assert peer.goaway is None
        self.ping(peer, 10)
        assert peer.goaway is Code.ENHANCE_YOUR_CALM
        assert peer.of(Kind.GOAWAY)[0].payload[8:] == b"too_many_pings"

    def test_those_in_time_are_welcome_for_ever(self) -> None:
        peer = Peer()
        peer.open(1)
        for _ in range(50):
            self.ping(peer, 300)
        assert peer.goaway is None

    def test_without_a_call_they_may_come_every_two_hours(self) -> None:
        peer = Peer()
        for _ in range(10):
            self.ping(peer, 7200)
        assert peer.goaway is None
        for _ in range(3):
            self.ping(peer, 300)
        assert peer.goaway is Code.ENHANCE_YOUR_CALM

    def test_each_piece_of_a_large_answer_pays_for_one(self) -> None:
        """grpc's clients measure the line by a ping whenever data comes, also where it left late for want of window."""
        peer = Peer()
        peer.open(1)
        peer.connection.start_answer(1, b"")
        peer.connection.send_data(1, b"x" * 1_000_000)
        for _ in range(50):
            self.ping(peer, 0.01)
            peer.feed(window_frame(0, 16_384) + window_frame(1, 16_384))
        assert peer.goaway is None
        for _ in range(4):
            self.ping(peer, 0.01)
        assert peer.goaway is Code.ENHANCE_YOUR_CALM

    def test_what_we_send_forgives_those_before(self) -> None:
        peer = Peer()
        peer.open(1)
        for _ in range(20):
            self.ping(peer, 1)
            self.ping(peer, 1)
            peer.connection.start_answer(1, b"")
            peer.collect()
        assert peer.goaway is None


class TestSlowness:
    def test_the_preface_has_its_time(self) -> None:
        peer = Peer(greet=False)
        peer.feed(b"PRI * HT")
        peer.now += 9
        peer.tick()
        assert not peer.connection.failed
        peer.now += 2
        peer.tick()
        assert peer.connection.failed

    def test_settings_have_to_be_acknowledged_in_time(self) -> None:
        peer = Peer(greet=False)
        peer.feed(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings_frame([]))
        peer.now += 11
        peer.tick()
        assert peer.goaway is Code.SETTINGS_TIMEOUT

    def test_a_frame_has_to_come_whole_in_time_however_its_octets_trickle(self) -> None:
        peer = Peer()
        peer.open(1)
        whole = data(1, b"x" * 100)
        for at in range(11):
            peer.tick()
            assert not peer.connection.failed
            peer.feed(whole[at : at + 1])
            peer.now += 1
        peer.tick()
        assert peer.goaway is Code.ENHANCE_YOUR_CALM

    def test_a_block_has_to_come_whole_in_time(self) -> None:
        peer = Peer()
        peer.feed(frame(Kind.HEADERS, 0, 1, b""))
        peer.now += 5
        peer.feed(frame(Kind.CONTINUATION, 0, 1, b""))
        peer.now += 6
        peer.tick()
        assert peer.goaway is Code.ENHANCE_YOUR_CALM

    def test_time_in_which_nothing_was_read_is_not_the_peers(self) -> None:
        peer = Peer()
        peer.open(1)
        peer.feed(data(1, b"x" * 100)[:50])
        peer.now += 5
        peer.connection.pause(peer.now)
        peer.now += 50
        peer.tick()
        assert peer.connection.resume(peer.now) == 50
        peer.now += 4
        peer.tick()
        assert peer.goaway is None
        peer.now += 2
        peer.tick()
        assert peer.goaway is Code.ENHANCE_YOUR_CALM

    def test_a_block_and_the_preface_have_their_time_without_what_was_not_read(self) -> None:
        peers = [Peer(), Peer(greet=False)]
        peers[0].feed(frame(Kind.HEADERS, 0, 1, b""))
        for peer in peers:
            peer.connection.pause(peer.now)
            peer.now += 50
            peer.connection.resume(peer.now)
            peer.now += 9
            peer.tick()
            assert not peer.connection.failed
            peer.now += 2
            peer.tick()
            assert peer.connection.failed

    def test_a_client_that_only_thinks_is_left_alone(self) -> None:
        peer = Peer()
        peer.open(1)
        for _ in range(100):
            peer.feed(data(1, b"abc")[:5])
            peer.feed(data(1, b"abc")[5:])
            peer.now += 600
            peer.tick()
        assert peer.goaway is None


class TestHonestClients:
    def test_one_that_cancels_as_many_calls_as_it_finishes_is_never_cut(self) -> None:
        peer = Peer()
        for number in range(5000):
            stream = 4 * number + 1
            peer.feed(peer.headers(stream) + reset_frame(stream, Code.CANCEL))
            peer.feed(peer.headers(stream + 2, end=True))
            peer.answer(stream + 2)
        assert peer.goaway is None

    def test_one_that_cancels_thirty_calls_a_second_is_never_cut(self) -> None:
        peer = Peer()
        for number in range(5000):
            peer.now += 1 / 30
            peer.feed(peer.headers(2 * number + 1) + reset_frame(2 * number + 1, Code.CANCEL))
        assert peer.goaway is None

    def test_one_that_gives_credit_twice_for_every_message_is_never_cut(self) -> None:
        peer = Peer()
        peer.open(1)
        peer.connection.start_answer(1, b"")
        for _ in range(20_000):
            peer.connection.send_data(1, b"x" * 10)
            peer.feed(window_frame(0, 10) + window_frame(1, 10))
        assert peer.goaway is None

    def test_one_that_gives_credit_in_small_pieces_for_large_answers_is_never_cut(self) -> None:
        peer = Peer()
        peer.open(1)
        peer.connection.start_answer(1, b"")
        for _ in range(2000):
            peer.connection.send_data(1, b"x" * 80_000)
            peer.feed((window_frame(0, 4000) + window_frame(1, 4000)) * 20)
        assert peer.goaway is None

    def test_one_that_opens_the_window_of_a_large_answer_by_one_octet_each_time_is_cut(self) -> None:
        peer = Peer()
        peer.feed(setting(Setting.INITIAL_WINDOW_SIZE, 0))
        peer.open(1)
        peer.connection.start_answer(1, b"")
        peer.connection.send_data(1, b"x" * 1_000_000)
        assert flood(peer, lambda n: window_frame(1, 1)) < 10_100
        assert peer.goaway is Code.ENHANCE_YOUR_CALM


class TestBudgets:
    def test_a_budget_is_spent_refilled_by_time_and_earned(self) -> None:
        budget = Budget(Allowance(burst=2, per_second=1, per_answer=0.5), 0.0)
        assert [budget.spend(0.0) for _ in range(3)] == [True, True, False]
        assert [budget.spend(1.5) for _ in range(2)] == [True, False]
        budget.earn(2)
        assert budget.spend(1.5)
        budget.earn(1000)
        assert [budget.spend(1.5) for _ in range(3)] == [True, True, False]
