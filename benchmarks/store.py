"""The real MariaDB that ranges come from while something is measured: the one that the tests start."""

import contextlib
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

from benchmarks.routes import TAGS
from benchmarks.servers import NotServing, python
from databases import MariaDb, Server

STEP = 10_000
"""Step of the tags that are measured, beyond which none grows (`goloves_config`): 40,000/s are four refills a second.
With the defaults the step would grow until a range lasts 15 minutes, and no run would meet a refill."""

BATCH_STEP = 1_000_000
"""Step of the tag `batch`: the largest to which one grows by itself, under the defaults."""

LOWEST = 19
"""The lowest priority, as `nice` counts."""

INSERT = "INSERT INTO leaf_alloc (biz_tag, max_id, step, description, update_time) VALUES "


class Store:
    """An empty database of a server that lives as long as this program, its data in memory where there is room."""

    def __init__(self, core: int | None) -> None:
        missing = MariaDb.missing()
        if missing:
            raise NotServing(f"{missing}: apt-get install mariadb-server-core mariadb-client-core")
        self._server: Server = MariaDb()
        self._server.create()
        self.url = self._server.fresh()
        self._database = self.url.rpartition("/")[2]
        done = subprocess.run(
            python("-m", "goloves", "migrate", "--store", self.url), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise NotServing(f"goloves migrate failed: {done.stderr}")
        self.add_tags(["order", *(f"t{number}" for number in range(TAGS))], STEP)
        self.add_tags(["batch"], BATCH_STEP)
        self._settle(core)

    def add_tags(self, names: Iterable[str], step: int) -> None:
        """Create tags as an operator of Leaf would."""
        rows = ",".join(f"('{name}',1,{step},'',now())" for name in names)
        self._server.sql(INSERT + rows, self._database)

    def add_numbered(self, first: int, last: int, step: int) -> None:
        """Create the tags `n<first>` to `n<last>`, as many as one likes: MariaDB counts by itself."""
        numbered = INSERT.replace("VALUES", f"SELECT CONCAT('n', seq),1,{step},'',now() FROM seq_{first}_to_{last}")
        self._server.sql(numbered, self._database)

    def granted(self) -> int:
        """Give how many numbers were granted so far, of all tags."""
        return int(self._server.sql("SELECT SUM(max_id) - COUNT(*) FROM leaf_alloc", self._database))

    def remove(self) -> None:
        """End the server."""
        self._server.remove()

    def _settle(self, core: int | None) -> None:
        """Move all its threads to the load's core, behind the load: the server's core is the server's.

        Elsewhere a database has a machine of its own. Here it works for more than a millisecond a refill on the core of
        the load generator, which must not wait for it: it would count that as the server's latency.
        """
        process = self._server.process
        if core is not None and process is not None:
            for thread in Path(f"/proc/{process.pid}/task").iterdir():
                os.sched_setaffinity(int(thread.name), {core})
                os.setpriority(os.PRIO_PROCESS, int(thread.name), LOWEST)
            # Where the kernel groups processes by their session, it is the groups' priorities that count (sched(7)).
            with contextlib.suppress(OSError):
                Path(f"/proc/{process.pid}/autogroup").write_text(str(LOWEST), encoding="ascii")


def goloves_config(directory: Path, url: str, port: int, grpc: int, max_step: int | None = STEP) -> Path:
    """Write the configuration of the node that is measured: all defaults, but for addresses, `max_step` (unless None)
    and no supervisor, for the process that is started is the one that is measured."""
    path = directory / "goloves.toml"
    path.write_text(
        f'[server]\ndata_dir = "{directory / "data"}"\nnodes = 0\n\n[stores]\nurl = "{url}"\n\n'
        f'[http]\nlisten = ["127.0.0.1:{port}"]\n\n[grpc]\nlisten = ["127.0.0.1:{grpc}"]\n\n'
        + (f"[segment]\nmax_step = {max_step}\n" if max_step else ""),
        encoding="utf-8",
    )
    return path
