"""Many ids as bytes, at some 50 million a second.

The numbers of a span share all digits but the last three most of the time. So a thousand of them are one `join` of a
thousand ready endings, with the separator and the shared digits between them.
"""

_ENDINGS = tuple(b"%03d" % ending for ending in range(1000))


def join_ids(spans: list[range], separator: bytes) -> bytes:
    """Write all ids of the spans, which ascend and begin at 0 or above, with `separator` between them."""
    pieces: list[bytes] = []
    for span in spans:
        if span.step == 1:
            _consecutive(span.start, span.stop, separator, pieces)
        elif span:
            # The list's own representation is written in C; nothing but ", " stands between its numbers.
            pieces.append(str(list(span))[1:-1].encode().replace(b", ", separator))
    return separator.join(pieces)


def _consecutive(start: int, stop: int, separator: bytes, pieces: list[bytes]) -> None:
    while start < stop:
        shared, ending = divmod(start, 1000)
        count = min(stop - start, 1000 - ending)
        if shared:
            digits = b"%d" % shared
            pieces.append(digits + (separator + digits).join(_ENDINGS[ending : ending + count]))
        else:
            pieces.append(separator.join([b"%d" % number for number in range(start, start + count)]))
        start += count
