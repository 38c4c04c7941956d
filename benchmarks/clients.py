"""Clients that do one thing once, where the load generator would do it many times."""

import http.client
import random
import threading
import time
from collections.abc import Sequence

from benchmarks.servers import PATIENCE, NotServing, Running

CLIENTS = 16

EACH = 0.05
"""Seconds that the first range of a tag may take beside others: many times what it does."""


def use_tags(node: Running, names: Sequence[str], *, most: int = 0) -> None:
    """Draw one id of each tag, or by chance up to `most`, over a few connections; NotServing if one gives none."""
    chance = random.Random(1)
    drawn = {name: chance.randint(1, most) for name in names} if most else {}
    failed: list[str] = []
    deadline = time.monotonic() + PATIENCE + len(names) * EACH

    def ask(part: Sequence[str]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", node.port, timeout=PATIENCE)
        try:
            for name in part:
                # 503 says: try again. Thousands of first uses at once are more than a deadline of 200 ms.
                status, body = 503, b""
                while status == 503 and time.monotonic() < deadline:
                    if most:
                        connection.request("POST", f"/v1/segments/{name}/ids?count={drawn[name]}")
                    else:
                        connection.request("GET", f"/api/segment/get/{name}")
                    answer = connection.getresponse()
                    status, body = answer.status, answer.read()
                if status != 200:
                    failed.append(f"{name}: {status} {body[:200]!r}")
        except (OSError, http.client.HTTPException) as error:
            failed.append(f"{part[0]} and others: {error}")
        finally:
            connection.close()

    threads = [threading.Thread(target=ask, args=(names[number::CLIENTS],)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise NotServing(f"{len(failed)} of {len(names)} tags gave no id; {failed[0]}\n{node.tail}")
