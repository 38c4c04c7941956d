"""The checker knows every grant that the store committed and every id that a node issued.

It holds: no id twice, each inside a grant of just that node. One bound, as the guarantees state it: from the moment at
which a store was set back until it is halted and repaired, it grants again what it has forgotten. Grants of
that time are suspect, and an id out of one may repeat another. Nothing else may; and a node that has itself issued
higher numbers than such a grant holds must not use it.
"""

from collections import defaultdict
from dataclasses import dataclass, field

from goloves.core.grants import Range, Window
from goloves.core.layout import Layout


class Duplicate(AssertionError):
    """What must never happen happened."""


@dataclass
class Checker:
    """Collects while the simulation runs; `check` at its end."""

    ranges: dict[tuple[str, str], list[Range]] = field(default_factory=lambda: defaultdict(list))
    """Node and tag to the ranges that the store committed for it."""
    suspect_ranges: dict[tuple[str, str], list[Range]] = field(default_factory=lambda: defaultdict(list))
    suspect_windows: dict[tuple[str, str], list[Window]] = field(default_factory=lambda: defaultdict(list))
    reached: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    """Node and tag to the end of the highest number that it issued and remembers."""
    repeated: int = 0
    """Ids that came twice within the bound."""
    windows: dict[tuple[str, str], list[Window]] = field(default_factory=lambda: defaultdict(list))
    spans: dict[str, list[tuple[int, int, str]]] = field(default_factory=lambda: defaultdict(list))
    """Tag to the spans of numbers issued: start, end, node."""
    ids: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    """Space to ids issued."""
    runs: dict[str, list[tuple[range, str]]] = field(default_factory=lambda: defaultdict(list))
    """Space to the spans of ids issued, and by which node."""
    layouts: dict[str, Layout] = field(default_factory=dict)
    issued: int = 0

    def granted_range(self, node: str, granted: Range, *, suspect: bool = False, reached: int = 0) -> None:
        """`reached`: what the node had reached when it sent the request. Below that it has to refuse the grant."""
        if granted.start < reached:
            return
        self.ranges[node, granted.tag].append(granted)
        if suspect:
            self.suspect_ranges[node, granted.tag].append(granted)

    def granted_window(self, node: str, window: Window, *, suspect: bool = False) -> None:
        self.windows[node, window.space].append(window)
        if suspect:
            self.suspect_windows[node, window.space].append(window)

    def issued_numbers(self, node: str, tag: str, spans: list[range]) -> None:
        for span in spans:
            self.issued += len(span)
            self.spans[tag].append((span.start, span.stop, node))
            self.reached[node, tag] = max(self.reached[node, tag], span.stop)

    def forgets(self, node: str) -> None:
        """The node lost its state, or got another's."""
        for of_node, tag in list(self.reached):
            if of_node == node:
                self.reached[of_node, tag] = 0

    def issued_ids(self, node: str, space: str, spans: list[range]) -> None:
        seen = self.ids[space]
        for span in spans:
            self.issued += len(span)
            if not seen.isdisjoint(span):
                self._judge_ids(node, space, span)
            seen.update(span)
            self.runs[space].append((span, node))

    def _judge_ids(self, node: str, space: str, span: range) -> None:
        for id_ in span:
            for run, before in self.runs[space]:
                if id_ in run:
                    if not self._is_suspect_id(node, space, id_) and not self._is_suspect_id(before, space, id_):
                        raise Duplicate(f"{node} issued {id_} of the space {space}, which {before} issued before")
                    self.repeated += 1

    def _is_suspect_id(self, node: str, space: str, id_: int) -> bool:
        decoded = self.layouts[space].decode(id_)
        return any(
            window.worker == decoded.worker and window.start <= decoded.units < window.end
            for window in self.suspect_windows[node, space]
        )

    def _is_suspect_number(self, node: str, tag: str, number: int) -> bool:
        return any(granted.start <= number < granted.end for granted in self.suspect_ranges[node, tag])

    def check(self) -> None:
        for tag, spans in self.spans.items():
            self._check_numbers(tag, sorted(spans))
        for space, runs in self.runs.items():
            self._check_ids(space, runs)

    def _check_numbers(self, tag: str, spans: list[tuple[int, int, str]]) -> None:
        last_end, last_node = -1, ""
        granted_to = {node: self._joined(node, tag) for node in {node for _, _, node in spans}}
        for start, end, node in spans:
            if start < last_end:
                if self._is_suspect_number(node, tag, start) or self._is_suspect_number(last_node, tag, start):
                    self.repeated += min(end, last_end) - start
                    if last_end >= end:
                        continue
                else:
                    raise Duplicate(f"{node} issued {start} of the tag {tag}, which {last_node} issued before")
            last_end, last_node = end, node
            if not any(granted.start <= start and end <= granted.end for granted in granted_to[node]):
                raise Duplicate(
                    f"{node} issued [{start}, {end}) of the tag {tag}, which it was not granted, or not to use"
                )

    def _joined(self, node: str, tag: str) -> list[Range]:
        """Ranges of a node, adjoining ones as one: a span may cover two of them."""
        joined: list[Range] = []
        for granted in sorted(self.ranges[node, tag], key=lambda granted: granted.start):
            if joined and joined[-1].end >= granted.start:
                joined[-1] = Range(tag, joined[-1].start, max(joined[-1].end, granted.end))
            else:
                joined.append(granted)
        return joined

    def _check_ids(self, space: str, runs: list[tuple[range, str]]) -> None:
        layout = self.layouts[space]
        held: dict[tuple[str, int], list[Window]] = defaultdict(list)
        for (node, name), windows in self.windows.items():
            if name == space:
                for window in windows:
                    held[node, window.worker].append(window)
        for span, node in runs:
            first, last = layout.decode(span[0]), layout.decode(span[-1])
            if (first.units, first.worker) != (last.units, last.worker):
                raise Duplicate(f"{node} issued {span}, which leaves its unit of time or its worker")
            if not any(window.start <= first.units < window.end for window in held[node, first.worker]):
                raise Duplicate(f"{node} issued {first} not in a window of its own")
