"""A process that takes ranges of a tag from a store and prints them: `taker.py URL TAG COUNT create|open`."""

import asyncio
import sys

from goloves.errors import StoreUnavailable, UnknownOutcome
from goloves.stores import make_store
from goloves.stores.sql import Options


def tell(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


async def main(url: str, tag: str, count: int, create: bool) -> None:
    store = make_store(url, Options(timeout=30, create=create))
    await store.open()
    tell("identity", store.identity)
    for _ in range(count):
        try:
            granted = await store.allocate(tag, 3)
        except (StoreUnavailable, UnknownOutcome) as error:
            tell("error", error.code, error.message)
            continue
        tell("range", granted.start, granted.end)
    await store.close()


asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "create"))
