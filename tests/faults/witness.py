"""What a store granted, by its own account: triggers write each move of a number or a floor into tables beside it.

They write in the transaction that grants, so that a grant is there if and only if it was committed. What is there
before the witness is taken over as granted to whomever.
"""

from faults.ledger import Granted, NumberGrant, WindowGrant
from stores.backends import Sql

COLUMNS = "space, worker, fence, start, floor, nonce, owner"

TABLES = {
    "sqlite": [
        "CREATE TABLE witness_number (tag TEXT, low INTEGER, high INTEGER)",
        "CREATE TABLE witness_window (nr INTEGER PRIMARY KEY, space TEXT, worker INTEGER, fence INTEGER,"
        " start INTEGER, floor INTEGER, nonce TEXT, owner TEXT)",
    ],
    "mariadb": [
        "CREATE TABLE witness_number (tag VARBINARY(512), low BIGINT, high BIGINT)",
        "CREATE TABLE witness_window (nr BIGINT PRIMARY KEY AUTO_INCREMENT, space VARBINARY(512), worker INT,"
        " fence BIGINT, start BIGINT, floor BIGINT, nonce VARCHAR(32), owner VARCHAR(255))",
    ],
    "postgresql": [
        "CREATE TABLE witness_number (tag text, low bigint, high bigint)",
        "CREATE TABLE witness_window (nr bigserial PRIMARY KEY, space text, worker int, fence bigint, start bigint,"
        " floor bigint, nonce text, owner text)",
    ],
}

TAKEN_OVER = [
    "INSERT INTO witness_number SELECT biz_tag, -1, max_id FROM leaf_alloc",
    f"INSERT INTO witness_window ({COLUMNS}) SELECT {COLUMNS} FROM goloves_worker",
]

NUMBER_MOVED = "INSERT INTO witness_number VALUES (new.biz_tag, old.max_id, new.max_id)"

WINDOW_MOVED = f"INSERT INTO witness_window ({COLUMNS}) VALUES ({', '.join(f'new.{c}' for c in COLUMNS.split(', '))})"

TRIGGERS = {
    "sqlite": [
        "CREATE TRIGGER witness_number AFTER UPDATE OF max_id ON leaf_alloc WHEN new.max_id <> old.max_id"
        f" BEGIN {NUMBER_MOVED}; END",
        f"CREATE TRIGGER witness_claim AFTER INSERT ON goloves_worker BEGIN {WINDOW_MOVED}; END",
        f"CREATE TRIGGER witness_window AFTER UPDATE ON goloves_worker BEGIN {WINDOW_MOVED}; END",
    ],
    "mariadb": [
        f"CREATE TRIGGER witness_number AFTER UPDATE ON leaf_alloc FOR EACH ROW {NUMBER_MOVED}",
        f"CREATE TRIGGER witness_claim AFTER INSERT ON goloves_worker FOR EACH ROW {WINDOW_MOVED}",
        f"CREATE TRIGGER witness_window AFTER UPDATE ON goloves_worker FOR EACH ROW {WINDOW_MOVED}",
    ],
    "postgresql": [
        "CREATE FUNCTION witness_number() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS"
        f" $$ BEGIN {NUMBER_MOVED}; RETURN NULL; END $$",
        "CREATE FUNCTION witness_window() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS"
        f" $$ BEGIN {WINDOW_MOVED}; RETURN NULL; END $$",
        "CREATE TRIGGER witness_number AFTER UPDATE OF max_id ON leaf_alloc FOR EACH ROW"
        " EXECUTE FUNCTION witness_number()",
        "CREATE TRIGGER witness_window AFTER INSERT OR UPDATE ON goloves_worker FOR EACH ROW"
        " EXECUTE FUNCTION witness_window()",
    ],
}


class Witness:
    """Sees what one store grants, from `install` on. `gather` may be called often: it forgets nothing that it saw."""

    def __init__(self, store: Sql) -> None:
        self._store = store
        self._granted = Granted()

    def install(self, *, windows: bool = True) -> None:
        """Put the witness into the store, which must have its tables; without `windows` only Leaf's."""
        taken_over = TAKEN_OVER if windows else TAKEN_OVER[:1]
        triggers = [each for each in TRIGGERS[self._store.name] if windows or "goloves_worker" not in each]
        for statement in [*TABLES[self._store.name], *taken_over, *triggers]:
            self._store.sql(statement)

    def install_windows(self) -> None:
        """Put the rest of the witness into a store that had only Leaf's table when the first part came."""
        for statement in [TAKEN_OVER[1], *TRIGGERS[self._store.name]]:
            if "goloves_worker" in statement:
                self._store.sql(statement)

    def follow(self, store: Sql) -> None:
        """Look at another store from now on, which has a copy of the witness, or whose grants belong to the same."""
        self._store = store

    def gather(self) -> Granted:
        """Give all that was granted, as seen now and whenever it was looked before."""
        granted = self._granted
        for row in _rows(self._store.sql("SELECT tag, low, high FROM witness_number")):
            tag, low, high = row[0], int(row[1]), int(row[2])
            if high > low:
                granted.numbers[tag].add(NumberGrant(max(0, low), high, base=low < 0))
        select = f"SELECT {COLUMNS} FROM witness_window ORDER BY nr"
        for space, worker, fence, start, floor, nonce, owner in _rows(self._store.sql(select)):
            windows = granted.windows[space]
            key = int(worker), int(fence), nonce
            window = windows.get(key)
            if window is None:
                windows[key] = WindowGrant(*key[:2], int(start), int(floor), owner, int(floor))
            else:
                window.end = max(window.end, int(floor))
                window.last = int(floor)
        return granted


def _rows(answer: str) -> list[list[str]]:
    return [line.split("\t") for line in answer.splitlines()]
