"""Mutants of the SQL: each breaks one rule of a SQL store on purpose, and names the test that has to notice it.

The simulation runs on the store in memory, so its own mutants say nothing about statements, locks and transactions.
Where a rule is kept twice, by a lock and by a comparison in the statement that writes, either is broken alone and both
together. What is not broken here, and why:

- SQLite's `BEGIN IMMEDIATE`: a transaction that was begun otherwise and has read is refused when it writes what another
  has changed (BUSY). It would grant nothing twice, but fail more often.
- A lock's order (the tag's row first, the space's row first): another order deadlocks, and the database ends one.
- What a power failure takes away (P4): no test here cuts the power; that the settings are set is tested.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from pytest import MonkeyPatch
from sqlalchemy import Connection, Engine, event, select, update

from goloves.core.grants import Window
from goloves.errors import GolovesError, StoreUnavailable, UnknownOutcome
from goloves.stores import failover, rules, schema, segments
from goloves.stores.base import Claim, Space
from goloves.stores.checks import Migrated
from goloves.stores.database import Database
from goloves.stores.dialects import Dialect, MySql, Sqlite, Verdict
from goloves.stores.failover import Failover
from goloves.stores.guard import SegmentGuard
from goloves.stores.marks import Marks
from goloves.stores.segments import SqlSegments
from goloves.stores.sql import SqlStore
from goloves.stores.workers import SqlWorkers
from stores import (
    test_checks,
    test_embedded,
    test_failover,
    test_guard,
    test_leaf_table,
    test_moments,
    test_outcomes,
    test_statements,
)
from stores.contract import HaltContract, SegmentContract, WorkerContract

SQL = ("sqlite", "mariadb", "postgresql")
SERVED = ("mariadb", "postgresql")
FILE = ("sqlite",)
"""For what is broken above the statements, where every database shows the same."""


@dataclass(frozen=True)
class Mutant:
    """How something is broken, and who notices it where."""

    break_it: Callable[[MonkeyPatch], None]
    noticed_by: Callable[..., Any]
    """A test: a coroutine function, or a method of one of the contracts."""
    kinds: tuple[str, ...]
    """Stores that the test runs on, where it runs on several."""
    given: dict[str, object]
    """What it is parametrized with besides."""
    fails_with: type[GolovesError] | None
    """The error that it meets instead of another, where it fails by that."""


SQL_MUTANTS: dict[str, Mutant] = {}


def mutant(
    noticed_by: Callable[..., Any],
    kinds: tuple[str, ...] = (),
    *,
    fails_with: type[GolovesError] | None = None,
    **given: object,
) -> Callable[[Callable[[MonkeyPatch], None]], Callable[[MonkeyPatch], None]]:
    """Enter a mutant into the list, under its name."""

    def enter(break_it: Callable[[MonkeyPatch], None]) -> Callable[[MonkeyPatch], None]:
        SQL_MUTANTS[break_it.__name__] = Mutant(break_it, noticed_by, kinds, given, fails_with)
        return break_it

    return enter


def _rewrite(patch: MonkeyPatch, begins: str, pattern: str, by: str) -> None:
    """Let each statement that begins so be sent with something of it replaced."""
    whole, what = Database._make_engine, re.compile(pattern, re.DOTALL)

    def make_engine(self: Database) -> Engine:
        engine = whole(self)

        def rewritten(
            connection: object, cursor: object, statement: str, parameters: object, *_: object
        ) -> tuple[str, object]:
            return (what.sub(by, statement) if statement.startswith(begins) else statement), parameters

        event.listen(engine, "before_cursor_execute", rewritten, retval=True)
        return engine

    patch.setattr(Database, "_make_engine", make_engine)


def _lock_nothing(patch: MonkeyPatch, begins: str) -> None:
    """Let selects that begin so lock nothing."""
    _rewrite(patch, begins, r" FOR UPDATE$", "")


def _compare_not(patch: MonkeyPatch, table: str, *columns: str, how: str = "=") -> None:
    """Let no update of a table compare these columns."""
    for column in columns:
        _rewrite(patch, f"UPDATE {table} ", rf"({table}\.{column} {how} [^\s)]+)", r"(\1 OR 1 = 1)")


def _halted_or_not(patch: MonkeyPatch, table: str) -> None:
    """Let no update of a table ask whether the store is halted."""
    _rewrite(patch, f"UPDATE {table} ", r"(goloves_meta\.halt != [^\s)]+)", r"\1 AND 1 = 0")


CHOSEN = "SELECT goloves_worker.worker, "
"""Begins the select with which a claim locks the worker id that it has chosen."""

EXTENDED = "SELECT goloves_worker.fence, "
"""Begins the select with which an extension locks its row."""


# --- ranges ---


@mutant(test_statements.test_r1_a_number_that_leaf_moves_in_the_middle_is_granted_from_where_it_stands, SERVED)
def r1_number_is_selected_and_then_updated(patch: MonkeyPatch) -> None:
    def raise_number(self: Dialect, connection: Connection, tag: str, size: int, limit: int, seen: int) -> int | None:
        if not 0 <= seen <= limit - size:
            return None
        leaf = schema.leaf
        connection.execute(update(leaf).where(self.same_name(leaf.c.biz_tag, tag)).values(max_id=seen + size))
        return seen + size

    for dialect in (MySql, Dialect):
        patch.setattr(dialect, "raise_number", raise_number)


@mutant(test_leaf_table.test_r1_mariadbs_default_collation_takes_no_name_for_another, charset="utf8mb4")
def r1_names_are_compared_as_the_table_does(patch: MonkeyPatch) -> None:
    patch.setattr(Dialect, "same_name", lambda self, column, value: column == value)


@mutant(SegmentContract.test_r2_the_last_number_below_the_limit_is_given_and_no_more, SQL)
def r2_limit_is_not_in_the_statement(patch: MonkeyPatch) -> None:
    _compare_not(patch, "leaf_alloc", "max_id", how="<=")


@mutant(
    test_outcomes.test_r3_a_commit_whose_answer_is_lost_is_an_unknown_outcome_and_burns_the_range,
    SERVED,
    fails_with=StoreUnavailable,
)
def r3_commit_of_unknown_outcome_is_repeated(patch: MonkeyPatch) -> None:
    whole = Database._may_repeat

    async def may_repeat(self: Database, link: Any, error: BaseException, progress: Any, repeat: int) -> bool:
        try:
            return await whole(self, link, error, progress, repeat)
        except UnknownOutcome:
            return True

    patch.setattr(Database, "_may_repeat", may_repeat)


@mutant(
    test_outcomes.test_r3_a_commit_that_is_never_answered_is_unknown_within_the_timeout,
    SERVED,
    fails_with=StoreUnavailable,
)
def r3_commit_without_an_answer_is_taken_for_none(patch: MonkeyPatch) -> None:
    whole = Database.run

    async def run(self: Database, *arguments: Any, **more: Any) -> Any:
        try:
            return await whole(self, *arguments, **more)
        except UnknownOutcome as error:
            raise StoreUnavailable(error.message) from error

    patch.setattr(Database, "run", run)


@mutant(
    test_outcomes.test_r3_a_commit_that_never_arrived_is_an_unknown_outcome_too, SERVED, fails_with=StoreUnavailable
)
def r3_connection_lost_in_a_commit_is_a_known_abort(patch: MonkeyPatch) -> None:
    patch.setattr(Dialect, "verdict", lambda self, error, *, committing: Verdict.ABORTED)


@mutant(SegmentContract.test_r4_a_number_set_back_halts_the_tag_for_every_node, FILE)
def r4_mark_is_not_raised(patch: MonkeyPatch) -> None:
    patch.setattr(SqlSegments, "_raise_mark", lambda self, connection, tag, end: None)


@mutant(test_moments.test_r4_a_range_of_unknown_outcome_has_raised_the_mark_if_it_has_moved_the_number, SERVED)
def r4_mark_is_raised_in_a_transaction_of_its_own(patch: MonkeyPatch) -> None:
    whole, raise_mark = SqlSegments.allocate, SqlSegments._raise_mark

    async def allocate(self: SqlSegments, tag: str, size: int, *, exact: bool = False) -> Any:
        granted = await whole(self, tag, size, exact=exact)
        await self._run(lambda connection: raise_mark(self, connection, tag, granted.end))
        return granted

    patch.setattr(SqlSegments, "_raise_mark", lambda self, connection, tag, end: None)
    patch.setattr(SqlSegments, "allocate", allocate)


@mutant(test_moments.test_r4_a_range_is_compared_with_the_mark_that_nobody_can_raise_meanwhile, SERVED)
def r4_row_of_the_tag_is_not_locked(patch: MonkeyPatch) -> None:
    _lock_nothing(patch, "SELECT goloves_tag.")


@mutant(SegmentContract.test_r4_numbers_that_leaf_hands_out_raise_the_mark, FILE)
def r4_range_is_not_compared_with_the_mark(patch: MonkeyPatch) -> None:
    whole = SqlSegments._lock

    def lock(self: SqlSegments, connection: Connection, tag: str, *, make: bool = False) -> Any:
        row = whole(self, connection, tag, make=make)
        return None if row is None else replace(row, mark=-1)

    patch.setattr(SqlSegments, "_lock", lock)


@mutant(SegmentContract.test_r4_a_number_set_back_halts_the_tag_for_every_node, SQL)
def r4_halt_of_a_tag_is_not_committed(patch: MonkeyPatch) -> None:
    whole = SqlSegments._halt_tag

    def halt(self: SqlSegments, connection: Connection, tag: str, start: int, mark: int) -> GolovesError:
        raise whole(self, connection, tag, start, mark)

    patch.setattr(SqlSegments, "_halt_tag", halt)


@mutant(SegmentContract.test_r4_a_deleted_tag_goes_on_above_its_numbers_when_it_is_created_again, FILE)
def r4_tombstone_is_not_looked_at(patch: MonkeyPatch) -> None:
    whole = rules.first_number
    patch.setattr(rules, "first_number", lambda new, mark, left_out: whole(new, None, left_out))


@mutant(SegmentContract.test_r4_numbers_that_only_leaf_handed_out_are_in_the_tombstone, FILE)
def r4_tombstone_has_the_mark_alone(patch: MonkeyPatch) -> None:
    patch.setattr(segments, "max", lambda mark, number: mark, raising=False)


@mutant(test_leaf_table.test_r4_the_migration_leaves_leafs_table_as_it_is_and_gives_each_tag_its_mark, SQL)
def r4_migration_makes_no_marks(patch: MonkeyPatch) -> None:
    whole = SqlStore.migrate

    async def migrate(self: SqlStore) -> Migrated:
        migrated = await whole(self)
        self._database.reopen()
        await self._database.run(lambda connection: connection.execute(schema.tag.delete()).rowcount)
        await self._database.close()
        return migrated

    patch.setattr(SqlStore, "migrate", migrate)


@mutant(test_guard.test_r5_marks_from_before_a_migration_are_compared_after_it_and_kept_under_the_store_s_identity)
def r5_marks_from_before_a_migration_are_forgotten(patch: MonkeyPatch) -> None:
    patch.setattr(Marks, "carry", lambda self, address, identity: None)


# --- halts and repairs ---


@mutant(test_moments.test_r6_a_range_is_not_granted_if_the_store_was_halted_in_the_last_moment, SERVED)
def r6_range_is_granted_without_a_last_look_at_the_halt(patch: MonkeyPatch) -> None:
    _halted_or_not(patch, "goloves_tag")


@mutant(test_moments.test_r6_no_window_is_granted_or_extended_if_the_store_was_halted_in_the_last_moment, SERVED)
def r6_window_is_granted_without_a_last_look_at_the_halt(patch: MonkeyPatch) -> None:
    _halted_or_not(patch, "goloves_worker")


@mutant(test_failover.test_r6_a_claim_that_waits_while_the_store_is_halted_is_not_granted, SERVED)
def r6_claim_looks_at_the_halt_before_it_waits_for_its_lock_only(patch: MonkeyPatch) -> None:
    whole, looked = SqlWorkers._store_halt, set[int]()

    def store_halt(self: SqlWorkers, connection: Connection) -> str:
        if id(self) in looked:
            return ""
        looked.add(id(self))
        return whole(self, connection)

    def claim(self: SqlWorkers, connection: Connection, asked: Claim, whole: Any = SqlWorkers._claim) -> Window:
        looked.discard(id(self))
        window: Window = whole(self, connection, asked)
        return window

    patch.setattr(SqlWorkers, "_store_halt", store_halt)
    patch.setattr(SqlWorkers, "_claim", claim)


@mutant(HaltContract.test_r6_after_a_halt_no_node_gets_a_grant_until_it_is_lifted, SQL)
def r6_ranges_are_granted_in_a_halt(patch: MonkeyPatch) -> None:
    whole = SqlSegments._lock

    def lock(self: SqlSegments, connection: Connection, tag: str, *, make: bool = False) -> Any:
        row = whole(self, connection, tag, make=make)
        return None if row is None else replace(row, store_halt="")

    patch.setattr(SqlSegments, "_lock", lock)
    _halted_or_not(patch, "goloves_tag")


@mutant(HaltContract.test_r6_a_repair_ends_every_window_of_a_space_by_fences_above_all_that_were_claimed, FILE)
def r6_repair_raises_no_fence(patch: MonkeyPatch) -> None:
    patch.setattr(failover, "end_windows", lambda connection, space=None: None)


@mutant(test_moments.test_r6_a_repair_ends_the_window_of_a_claim_too_that_was_under_way, SERVED)
def r6_claim_does_not_lock_its_space_against_repairs(patch: MonkeyPatch) -> None:
    _lock_nothing(patch, "SELECT goloves_space.")


@mutant(HaltContract.test_r6_a_space_raised_gives_no_window_below_its_floor, FILE)
def r6_floor_of_the_space_is_not_looked_at(patch: MonkeyPatch) -> None:
    whole = rules.window
    patch.setattr(rules, "window", lambda claim, worker, fence, floor: whole(claim, worker, fence, 0))


@mutant(HaltContract.test_r6_a_space_is_not_registered_while_the_store_is_halted_but_by_a_repair, FILE)
def r6_space_is_registered_in_a_halt(patch: MonkeyPatch) -> None:
    whole = SqlWorkers._open_space

    def open_space(self: SqlWorkers, connection: Connection, space: Space) -> None:
        self._repairing = True
        whole(self, connection, space)

    patch.setattr(SqlWorkers, "_open_space", open_space)


@mutant(HaltContract.test_r6_a_halt_is_told_and_repairs_raise_a_number_each_by_another_amount, FILE)
def r6_repairs_are_only_counted(patch: MonkeyPatch) -> None:
    patch.setattr("goloves.stores.sql.draw_repair", lambda: 1)


@mutant(test_guard.test_r6_a_node_that_slept_through_a_repair_compares_all_its_marks_and_not_only_those_it_uses)
def r6_marks_are_not_compared_after_a_repair_that_was_missed(patch: MonkeyPatch) -> None:
    async def nothing(self: SegmentGuard) -> str:
        return ""

    patch.setattr(SegmentGuard, "_find_behind", nothing)


@mutant(HaltContract.test_r7_what_a_limit_cut_off_a_skip_is_left_out_once_it_is_raised, FILE)
def r7_skip_forgets_what_a_limit_cut_off(patch: MonkeyPatch) -> None:
    whole = SqlSegments._skip

    def skip(self: SqlSegments, connection: Connection, tag: str, row: Any, max_id: int) -> tuple[int, int]:
        stands = whole(self, connection, tag, row, max_id)
        connection.execute(update(schema.tag).where(schema.tag.c.name == tag).values(skipped=row.skipped))
        row.due = 0
        return stands

    patch.setattr(SqlSegments, "_skip", skip)


@mutant(HaltContract.test_r7_a_skip_leaves_numbers_out_of_every_tag_once, FILE)
def r7_numbers_of_a_skip_are_not_left_out(patch: MonkeyPatch) -> None:
    whole = SqlSegments._lock

    def lock(self: SqlSegments, connection: Connection, tag: str, *, make: bool = False) -> Any:
        row = whole(self, connection, tag, make=make)
        return None if row is None else replace(row, due=0)

    patch.setattr(SqlSegments, "_lock", lock)


@mutant(test_failover.test_r7_another_server_halts_the_store_until_it_is_repaired, SERVED)
def r7_server_is_not_compared_with_the_known_one(patch: MonkeyPatch) -> None:
    patch.setattr(Failover, "_difference", lambda self, server, known, before: "")


@mutant(test_embedded.test_r8_a_file_that_was_replaced_under_a_store_grants_nothing)
def r8_file_is_not_looked_at_before_a_commit(patch: MonkeyPatch) -> None:
    patch.setattr(SqlStore, "_check_file", lambda self: None)


@mutant(test_checks.test_p4_sqlite_flushes_each_commit)
def p4_sqlite_flushes_its_log_at_checkpoints_only(patch: MonkeyPatch) -> None:
    whole = Sqlite.prepare

    def prepare(self: Sqlite, connection: Connection, *, allow_lost_commits: bool) -> None:
        whole(self, connection, allow_lost_commits=allow_lost_commits)
        connection.exec_driver_sql("PRAGMA synchronous=NORMAL")

    patch.setattr(Sqlite, "prepare", prepare)


# --- windows ---


@mutant(test_moments.test_w1_a_claim_that_has_chosen_keeps_the_owner_from_extending, SERVED)
def w1_chosen_worker_id_is_not_locked(patch: MonkeyPatch) -> None:
    _lock_nothing(patch, CHOSEN)


@mutant(
    test_moments.test_w1_a_claim_writes_over_nothing_but_the_row_that_it_read,
    SQL,
    changed="floor = floor + 600",
)
def w1_claim_does_not_compare_the_floor_where_it_writes(patch: MonkeyPatch) -> None:
    _compare_not(patch, "goloves_worker", "floor")


@mutant(
    test_moments.test_w1_a_claim_writes_over_nothing_but_the_row_that_it_read,
    SQL,
    changed="fence = fence + 1",
)
def w1_claim_does_not_compare_the_fence_where_it_writes(patch: MonkeyPatch) -> None:
    _compare_not(patch, "goloves_worker", "fence")


@mutant(test_moments.test_w1_a_claim_that_has_chosen_keeps_the_owner_from_extending, SERVED)
def w1_claim_neither_locks_nor_compares(patch: MonkeyPatch) -> None:
    _lock_nothing(patch, CHOSEN)
    _compare_not(patch, "goloves_worker", "fence", "floor")


@mutant(WorkerContract.test_w6_with_every_id_taken_the_first_free_moment_is_told, FILE)
def w1_window_starts_at_now_whatever_the_worker_id_s_floor(patch: MonkeyPatch) -> None:
    choose, window = SqlWorkers._choose_and_lock, rules.window

    def anyone(self: SqlWorkers, connection: Connection, claim: Claim) -> Any:
        return choose(self, connection, replace(claim, now=claim.space.layout.end_units))

    patch.setattr(SqlWorkers, "_choose_and_lock", anyone)
    patch.setattr(rules, "window", lambda claim, worker, fence, floor: window(claim, worker, fence, 0))


@mutant(WorkerContract.test_w1_a_window_never_starts_below_the_floor_whatever_the_clock_says, FILE)
def w1_fence_does_not_grow_with_a_claim(patch: MonkeyPatch) -> None:
    whole = rules.window
    patch.setattr(rules, "window", lambda claim, worker, fence, floor: whole(claim, worker, 1, floor))


@mutant(test_moments.test_w3_an_extension_under_way_keeps_others_from_claiming, SERVED)
def w3_extended_row_is_not_locked(patch: MonkeyPatch) -> None:
    _lock_nothing(patch, EXTENDED)


@mutant(
    test_moments.test_w3_an_extension_writes_over_nothing_but_its_own_window,
    SQL,
    changed="fence = fence + 1",
)
def w3_extension_does_not_compare_the_fence_where_it_writes(patch: MonkeyPatch) -> None:
    _compare_not(patch, "goloves_worker", "fence")


@mutant(
    test_moments.test_w3_an_extension_writes_over_nothing_but_its_own_window,
    SQL,
    changed="nonce = 'of another claim'",
)
def w3_extension_does_not_compare_the_nonce_where_it_writes(patch: MonkeyPatch) -> None:
    _compare_not(patch, "goloves_worker", "nonce")


@mutant(test_moments.test_w3_an_extension_under_way_keeps_others_from_claiming, SERVED)
def w3_extension_neither_locks_nor_compares(patch: MonkeyPatch) -> None:
    _lock_nothing(patch, EXTENDED)
    _compare_not(patch, "goloves_worker", "fence", "nonce")


@mutant(WorkerContract.test_w3_whoever_lost_the_window_can_not_extend_it, SQL)
def w3_lost_window_is_extended(patch: MonkeyPatch) -> None:
    patch.setattr(rules, "check_extension", lambda held, fence, nonce, floor: None)
    _compare_not(patch, "goloves_worker", "fence", "nonce")


@mutant(WorkerContract.test_w3_extending_moves_the_end_and_may_be_repeated, SQL)
def w3_extension_that_comes_late_lowers_the_floor(patch: MonkeyPatch) -> None:
    for dialect in (Dialect, Sqlite):
        patch.setattr(dialect, "greatest", lambda self, *values: values[-1])


@mutant(WorkerContract.test_w4_a_window_is_found_by_its_nonce_and_by_no_other, FILE)
def w4_window_is_found_under_any_nonce(patch: MonkeyPatch) -> None:
    def find(self: SqlWorkers, connection: Connection, space: str, nonce: str) -> Window | None:
        row = connection.execute(select(*schema.worker.c).where(schema.worker.c.space == space)).first()
        return None if row is None else Window(space, row.worker, row.fence, row.nonce, row.start, row.floor)

    patch.setattr(SqlWorkers, "_find", find)


@mutant(WorkerContract.test_w5_a_late_release_changes_nothing, SQL)
def w5_release_does_not_compare_the_fence(patch: MonkeyPatch) -> None:
    _compare_not(patch, "goloves_worker", "fence", "nonce")


@mutant(test_moments.test_w9_a_space_takes_no_other_layout_while_a_claim_is_under_way, SERVED)
def w9_claim_does_not_lock_its_space_against_another_layout(patch: MonkeyPatch) -> None:
    _lock_nothing(patch, "SELECT goloves_space.")


@mutant(WorkerContract.test_w9_a_space_without_claims_takes_the_new_layout_and_refuses_the_old, FILE)
def w9_claim_does_not_compare_the_layout(patch: MonkeyPatch) -> None:
    patch.setattr(SqlWorkers, "_change_way", lambda self, connection, claim, registered: None)
