"""What draws ids: one object per request that wants some.

`prepared` is the hot way for a single id; `answer` is the way that may wait. Both give the same bytes.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec

from goloves.server.http.answers import JSON, LEAF_JSON, NO_STORE, TEXT, Answer, Heads
from goloves.server.http.render import join_ids
from goloves.service import IdService

Prepared = tuple[Callable[[], int | None], Heads, bytes]
"""How to answer with a single id: where to take it, the heads, and the body with a place for the number."""


class Form(msgspec.Struct, frozen=True):
    """How ids are written."""

    heads: Heads
    content_type: bytes
    before: bytes
    between: bytes
    after: bytes

    @property
    def single(self) -> bytes:
        """The body of a single id, with a place for the number."""
        return self.before + b"%d" + self.after

    def answer(self, spans: list[range]) -> Answer:
        """Write these ids."""
        return Answer(200, self.content_type, self.before + join_ids(spans, self.between) + self.after, NO_STORE)


class Forms:
    """The forms of one node; their heads carry the date."""

    def __init__(self) -> None:
        text, json, leaf_json = Heads(TEXT), Heads(JSON), Heads(LEAF_JSON)
        self.leaf_text = Form(text, TEXT, b"", b"\n", b"")
        """A number and nothing else."""
        self.leaf_json = Form(leaf_json, LEAF_JSON, b"", b"\n", b"")
        """The same under another name."""
        self.text = Form(text, TEXT, b"", b"\n", b"\n")
        """One id a line."""
        self.json = Form(json, JSON, b'{"ids":["', b'","', b'"]}')
        """Ids as strings: a number above 2^53 does not survive JavaScript."""
        self._heads = (text, json, leaf_json)

    def renew(self, date: bytes) -> None:
        """Put this date into all heads."""
        for heads in self._heads:
            heads.renew(date)


class Draw(Protocol):
    """A request that draws ids."""

    def prepared(self) -> Prepared | None:
        """Give the hot way, if there is one."""

    def answer(self) -> Awaitable[Answer]:
        """Draw and write; raises what the service raises."""


class SegmentDraw(msgspec.Struct, frozen=True):
    """Ids of a tag."""

    service: IdService
    tag: str
    count: int
    form: Form

    def prepared(self) -> Prepared | None:
        """As `Draw.prepared`."""
        source = self.service.tags.get(self.tag) if self.count == 1 else None
        return None if source is None else (source.take, self.form.heads, self.form.single)

    async def answer(self) -> Answer:
        """As `Draw.answer`."""
        return self.form.answer(await self.service.segment_ids(self.tag, self.count))


class SnowflakeDraw(msgspec.Struct, frozen=True):
    """Ids of a space."""

    service: IdService
    space: str
    count: int
    form: Form

    def prepared(self) -> Prepared | None:
        """As `Draw.prepared`."""
        source = self.service.spaces.get(self.space) if self.count == 1 else None
        return None if source is None else (source.take, self.form.heads, self.form.single)

    async def answer(self) -> Answer:
        """As `Draw.answer`."""
        return self.form.answer(await self.service.snowflake_ids(self.space, self.count))


class RangeDraw(msgspec.Struct, frozen=True):
    """A range of a tag, for the caller to keep."""

    service: IdService
    tag: str
    size: int

    def prepared(self) -> Prepared | None:
        """As `Draw.prepared`."""
        return None

    async def answer(self) -> Answer:
        """As `Draw.answer`."""
        granted = await self.service.segment_range(self.tag, self.size)
        return Answer(200, JSON, b'{"start":"%d","end":"%d"}' % (granted.start, granted.end), NO_STORE)
