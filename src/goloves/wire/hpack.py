"""HPACK, the compression of HTTP/2's header fields (RFC 7541), for a server.

The decoder is complete: Huffman codes, the dynamic table, its size updates, limits on integers. It is fed with what a
peer sends, so it fails in one way only: `DamagedBlock`, after which its table is of no use any more and the
connection must end (RFC 9113 §4.3). The encoder keeps no state: it never touches the peer's dynamic table, so that
equal fields are equal bytes on every connection and an answer's header block can be a constant.

Rules:
1. Blocks are decoded in the order in which they arrived, each once: decoding changes the table.
2. What a block costs is bounded by its own length and the table's size; the caller bounds both.
3. While `changes` stays the same the table does, and equal blocks mean equal fields. So a block may be skipped if it
   was decoded with the table as it is and did not change it; one that changed it changes it each time that it comes.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from typing import Final

Field = tuple[bytes, bytes]
"""Name and value of a header field, as octets."""

DEFAULT_TABLE_SIZE: Final = 4096
"""Octets; what both sides start with (RFC 9113 §6.5.2, SETTINGS_HEADER_TABLE_SIZE)."""

ENTRY_OVERHEAD: Final = 32
"""Octets that each field counts beyond its name and value (RFC 7541 §4.1; RFC 9113 §10.5.1 counts the same way)."""

MAX_INTEGER_OCTETS: Final = 4
"""Octets after the prefix of an integer: 28 bits. No length or index that the caller's limits allow needs more than
three; zeros that only lengthen a number are refused with it."""

MAX_REMEMBERED_STRINGS: Final = 4096
MAX_REMEMBERED_OCTETS: Final = 96
"""Huffman codes remembered over all connections, and their longest: header names, paths and host names, in about a
megabyte. Undoing one anew takes 30 times as long as finding it. When full, all are forgotten: the few that matter are
back after one block, and a peer that sends ever new strings has cost the others no more than that."""

STATIC_TABLE: Final[tuple[Field, ...]] = tuple(
    (name.encode(), value.encode())
    for name, _, value in (
        line.partition("=")
        for line in (
            "",  # numbering starts at 1
            ":authority",
            ":method=GET",
            ":method=POST",
            ":path=/",
            ":path=/index.html",
            ":scheme=http",
            ":scheme=https",
            ":status=200",
            ":status=204",
            ":status=206",
            ":status=304",
            ":status=400",
            ":status=404",
            ":status=500",
            "accept-charset",
            "accept-encoding=gzip, deflate",
            "accept-language",
            "accept-ranges",
            "accept",
            "access-control-allow-origin",
            "age",
            "allow",
            "authorization",
            "cache-control",
            "content-disposition",
            "content-encoding",
            "content-language",
            "content-length",
            "content-location",
            "content-range",
            "content-type",
            "cookie",
            "date",
            "etag",
            "expect",
            "expires",
            "from",
            "host",
            "if-match",
            "if-modified-since",
            "if-none-match",
            "if-range",
            "if-unmodified-since",
            "last-modified",
            "link",
            "location",
            "max-forwards",
            "proxy-authenticate",
            "proxy-authorization",
            "range",
            "referer",
            "refresh",
            "retry-after",
            "server",
            "set-cookie",
            "strict-transport-security",
            "transfer-encoding",
            "user-agent",
            "vary",
            "via",
            "www-authenticate",
        )
    )
)
"""RFC 7541 Appendix A."""

_STATIC_COUNT: Final = len(STATIC_TABLE)

HUFFMAN_LENGTHS: Final = bytes.fromhex(
    "0d171c1c1c1c1c1c1c181e1c1c1e1c1c1c1c1c1c1c1c1e1c1c1c1c1c1c1c1c1c"
    "060a0a0c0d06080b0a0a080b080606060505050606060606060607080f060c0a"
    "0d06070707070707070707070707070707070707070707070807080d130d0e06"
    "0f05060506050606060507070606060506070605050607070707070f0b0e0d1c"
    "1416141416161617161717171717181718181617181717171715161716171718"
    "1615141616171715171616181516171715151615171617171416161617161617"
    "1a1a1413161716191a1a1a1b1b1a181913151a1b1b1a1b1815151a1a1c1b1b1b"
    "14181415161515171616191918181a171a1b1a1a1b1b1b1b1b1c1b1b1b1b1b1a"
    "1e"
)
"""Bits of each octet's code, and last of EOS's. The code is canonical, so that its lengths say all (RFC 7541 Appendix
B)."""


class DamagedBlock(Exception):
    """A header block breaks RFC 7541; what the sender's table holds is unknown from here on."""


def _make_codes() -> list[str]:
    """Give each symbol's code, as digits: codes of one length count up in the symbols' order, shorter ones first."""
    codes = [""] * len(HUFFMAN_LENGTHS)
    code = 0
    for length in range(1, max(HUFFMAN_LENGTHS) + 1):
        code <<= 1
        for symbol, bits in enumerate(HUFFMAN_LENGTHS):
            if bits == length:
                codes[symbol] = f"{code:0{length}b}"
                code += 1
    return codes


_CODES: Final = _make_codes()


def _grow_tree() -> list[list[int]]:
    """Make the tree of the code: two children a node; a number below 0 is the symbol -1 - number."""
    tree: list[list[int]] = [[0, 0]]
    for symbol, code in enumerate(_CODES):
        node = 0
        for digit in code[:-1]:
            side = int(digit)
            if not tree[node][side]:
                tree[node][side] = len(tree)
                tree.append([0, 0])
            node = tree[node][side]
        tree[node][int(code[-1])] = -1 - symbol
    return tree


_TREE: Final = _grow_tree()
_EOS: Final = -1 - 256


class _State(dict[int, "tuple[_State, bytes]"]):
    """Where the Huffman decoder stands between two octets: maps the next one to the state after it and what it spells.

    A step takes a whole octet. Steps are worked out when they are first taken: all 65,536 would cost a tenth of a
    second and megabytes, and what people send needs a few hundred of them.
    """

    __slots__ = ("may_end", "node")

    def __init__(self, node: int) -> None:
        self.node = node
        self.may_end = False

    def __missing__(self, octet: int) -> "tuple[_State, bytes]":
        node, spelled = self.node, bytearray()
        for position in range(7, -1, -1):
            node = _TREE[node][octet >> position & 1]
            if node == _EOS:
                raise DamagedBlock("a Huffman-coded string contains EOS (RFC 7541 §5.2)")
            if node < 0:
                spelled.append(-1 - node)
                node = 0
        step = self[octet] = _STATES[node], bytes(spelled)
        return step


_STATES: Final = [_State(node) for node in range(len(_TREE))]


def _allow_padding() -> None:
    """Mark where a string may end: after the first bits of EOS, all ones, fewer than eight of them (RFC 7541 §5.2)."""
    node = 0
    for _ in range(8):
        _STATES[node].may_end = True
        node = _TREE[node][1]


_allow_padding()


class _Strings(dict[bytes, bytes]):
    """Huffman codes and what they spell; remembers the short ones."""

    def __missing__(self, code: bytes) -> bytes:
        text = spell(code)
        if len(code) <= MAX_REMEMBERED_OCTETS:
            if len(self) >= MAX_REMEMBERED_STRINGS:
                self.clear()
            self[code] = text
        return text


_plain: Final = _Strings()


def spell(code: bytes) -> bytes:
    """Undo a string's Huffman code; raises DamagedBlock."""
    state, pieces = _STATES[0], []
    for octet in code:
        state, spelled = state[octet]
        pieces.append(spelled)
    if not state.may_end:
        raise DamagedBlock("a Huffman-coded string ends in wrong padding (RFC 7541 §5.2)")
    return b"".join(pieces)


def _integer(block: bytes, at: int, prefix: int) -> tuple[int, int]:
    """Read the rest of an integer whose prefix was full (RFC 7541 §5.1); give it and where the next thing starts."""
    value = prefix
    for shift in range(0, 7 * MAX_INTEGER_OCTETS, 7):
        octet = block[at]
        at += 1
        value += (octet & 0x7F) << shift
        if octet < 0x80:
            return value, at
    raise DamagedBlock(f"an integer takes more than {MAX_INTEGER_OCTETS} octets after its prefix (RFC 7541 §5.1)")


Step = Callable[[Hashable, int], Hashable | None]


class Recognizer:
    """Tells of a Huffman code whether what it spells is one of a set of texts, without spelling it.

    The set is given as an automaton: the state at the start; `step`, which gives the state after an octet, or None if
    no text goes on like this; and which states may be the last. Its states times the Huffman code's are its places;
    each is worked out when it is first reached.
    """

    def __init__(self, start: Hashable, step: Step, may_end: Callable[[Hashable], bool]) -> None:
        self._step = step
        self._may_end = may_end
        self._places: dict[tuple[int, Hashable], _Place] = {}
        self._nowhere = _Nowhere(self, 0, None)
        self._start = self.place(0, start)

    def __call__(self, code: bytes) -> bool:
        """Tell; False also for what is no code of anything."""
        place = self._start
        for octet in code:
            place = place[octet]
        return place.may_end

    def place(self, node: int, state: Hashable) -> "_Place":
        """Give the place of a node of the code's tree and a state of the automaton."""
        found = self._places.get((node, state))
        if found is None:
            found = self._places[node, state] = _Place(self, node, state)
            found.may_end = _STATES[node].may_end and self._may_end(state)
        return found

    def after(self, place: "_Place", octet: int) -> "_Place":
        """Give the place after one more octet of the code."""
        try:
            spelled_at, spelled = _STATES[place.node][octet]
        except DamagedBlock:
            return self._nowhere
        state: Hashable | None = place.state
        for each in spelled:
            state = self._step(state, each)
            if state is None:
                return self._nowhere
        found = place[octet] = self.place(spelled_at.node, state)
        return found


class _Place(dict[int, "_Place"]):
    """Maps the next octet to the place after it. Ways to nowhere are not kept: any peer could fill them in."""

    __slots__ = ("_recognizer", "may_end", "node", "state")

    def __init__(self, recognizer: Recognizer, node: int, state: Hashable) -> None:
        self._recognizer = recognizer
        self.node = node
        self.state = state
        self.may_end = False

    def __missing__(self, octet: int) -> "_Place":
        return self._recognizer.after(self, octet)


class _Nowhere(_Place):
    """Where no text of the set leads."""

    __slots__ = ()

    def __missing__(self, octet: int) -> "_Place":
        return self


class Decoder:
    """Decodes the header blocks of one connection, in their order."""

    def __init__(self, limit: int = DEFAULT_TABLE_SIZE) -> None:
        self._limit = limit
        self._table: deque[Field] = deque()
        """The newest entry last: RFC 7541's index 62 is `_table[-1]`."""
        self._size = 0
        self.max_size = limit
        """Octets that the dynamic table may hold now."""
        self.changes = 0
        """How often the table has changed."""

    @property
    def table_size(self) -> int:
        """Octets that the dynamic table holds now, as RFC 7541 §4.1 counts."""
        return self._size

    def decode(self, block: bytes) -> list[Field]:
        """Decode a whole header block; raises DamagedBlock, and then the connection must end."""
        fields: list[Field] = []
        add_field = fields.append
        table, static, plain = self._table, STATIC_TABLE, _plain
        at, end = 0, len(block)
        try:
            while at < end:
                octet = block[at]
                at += 1
                if octet >= 0x80:  # §6.1, an indexed field
                    if octet < 0x80 + _STATIC_COUNT:
                        if octet == 0x80:
                            raise DamagedBlock("a field has index 0 (RFC 7541 §6.1)")
                        add_field(static[octet - 0x80])
                        continue
                    index = octet - 0x80
                    if index == 0x7F:
                        if block[at] < 0x80:  # nearly always one more octet is enough
                            index += block[at]
                            at += 1
                        else:
                            index, at = _integer(block, at, index)
                    add_field(table[_STATIC_COUNT - 1 - index])
                    continue
                if octet >= 0x40:  # §6.2.1, a literal to be added to the table
                    index, mask = octet & 0x3F, 0x3F
                elif octet >= 0x20:
                    index, mask = octet & 0x1F, 0x1F
                    if index == mask:
                        index, at = _integer(block, at, index)
                    if fields:
                        raise DamagedBlock("the table's size changes after a field (RFC 7541 §4.2)")
                    if index > self._limit:
                        raise DamagedBlock(f"the table's size grows to {index}, beyond {self._limit} (RFC 7541 §6.3)")
                    self._resize(index)
                    continue
                else:  # §6.2.2 and §6.2.3, a literal that is not to be added
                    index, mask = octet & 0x0F, 0x0F
                if index == mask:
                    index, at = _integer(block, at, index)
                if index >= _STATIC_COUNT:
                    name = table[_STATIC_COUNT - 1 - index][0]
                elif index:
                    name = static[index][0]
                else:
                    length = block[at]
                    coded = length >= 0x80
                    length &= 0x7F
                    at += 1
                    if length == 0x7F:
                        length, at = _integer(block, at, length)
                    name = block[at : at + length]
                    at += length
                    if coded:
                        name = plain[name]
                length = block[at]
                coded = length >= 0x80
                length &= 0x7F
                at += 1
                if length == 0x7F:
                    length, at = _integer(block, at, length)
                value = block[at : at + length]
                at += length
                if at > end:
                    break
                if coded:
                    value = plain[value]
                field = name, value
                add_field(field)
                if mask == 0x3F:
                    size = self._size + len(name) + len(value) + ENTRY_OVERHEAD
                    if size <= self.max_size:
                        self.changes += 1
                        table.append(field)
                        self._size = size
                    else:
                        self._insert_evicting(field)
        except IndexError:
            raise DamagedBlock("a block ends early, or names an entry that its table has not") from None
        if at > end:
            raise DamagedBlock("a string is longer than what is left of its block")
        return fields

    def _insert_evicting(self, field: Field) -> None:
        size = len(field[0]) + len(field[1]) + ENTRY_OVERHEAD
        if size > self.max_size:  # §4.4: a field larger than the table empties it
            self.changes += bool(self._table)
            self._table.clear()
            self._size = 0
            return
        self.changes += 1
        self._evict(self.max_size - size)
        self._table.append(field)
        self._size += size

    def _resize(self, size: int) -> None:
        self.changes += 1
        self.max_size = size
        self._evict(size)

    def _evict(self, size: int) -> None:
        held = self._size
        while held > size:
            name, value = self._table.popleft()
            held -= len(name) + len(value) + ENTRY_OVERHEAD
        self._size = held


def list_size(fields: Iterable[Field]) -> int:
    """Count a field list's octets as SETTINGS_MAX_HEADER_LIST_SIZE does (RFC 9113 §6.5.2)."""
    return sum([len(name) + len(value) + ENTRY_OVERHEAD for name, value in fields])


_STATIC_FIELDS: Final = {field: index for index, field in enumerate(STATIC_TABLE) if index}
_STATIC_NAMES: Final = {name: index for (name, _), index in reversed(_STATIC_FIELDS.items())}

FORGET_TABLE: Final = b"\x20"
"""A size update to 0, for the start of a block. Due once, before the next block, when the peer lowers its limit: its
decoder expects to hear of it, though this encoder never put anything into its table (RFC 9113 §4.3.1)."""


def encode(fields: Iterable[Field]) -> bytes:
    """Encode fields as a block that neither reads nor changes a dynamic table (RFC 7541 §6.1, §6.2.2)."""
    pieces = []
    for field in fields:
        index = _STATIC_FIELDS.get(field)
        if index is not None:
            pieces.append(_encode_integer(0x80, 0x7F, index))
            continue
        name, value = field
        index = _STATIC_NAMES.get(name, 0)
        pieces.append(_encode_integer(0x00, 0x0F, index))
        if not index:
            pieces.append(encode_string(name))
        pieces.append(encode_string(value))
    return b"".join(pieces)


def encode_string(text: bytes, *, coded: bool = False) -> bytes:
    """Encode a string (RFC 7541 §5.2), in Huffman code if so wished."""
    if not coded:
        return _encode_integer(0x00, 0x7F, len(text)) + text
    digits = "".join([_CODES[octet] for octet in text])
    digits += "1" * (-len(digits) % 8)
    code = int(digits or "0", 2).to_bytes(len(digits) // 8, "big")
    return _encode_integer(0x80, 0x7F, len(code)) + code


def _encode_integer(first: int, prefix: int, value: int) -> bytes:
    if value < prefix:
        return bytes((first | value,))
    octets = bytearray((first | prefix,))
    value -= prefix
    while value >= 0x80:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    octets.append(value)
    return bytes(octets)
