"""What the benchmarks make of their figures, and that none of them has rotted."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import benchmarks.__main__ as program
import pytest
from benchmarks.contenders import BARE, FLOOR
from benchmarks.scenarios import COST_RATE, Row
from benchmarks.tables import FRONT_ROWS, front, median, median_ratio, tables
from click.testing import CliRunner

ROOT = Path(__file__).parents[2]


def cost(contender: str, run: int, us: float, rate: float = COST_RATE, **more: Any) -> Row:
    figures = {"server_us_per_request": us, "server_user_us_per_request": us / 4, "rate": rate, "faults": [], **more}
    return Row("cost, repeated", contender, run, figures)


OURS = "Goloves, segment get"


def line(text: str, name: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(f"| {name}"))


def test_ratios_are_made_within_a_run_so_that_a_slow_minute_does_not_count() -> None:
    rows = []
    for run, slow in enumerate([1.0, 5.0, 1.0], 1):
        rows += [cost(FLOOR, run, 10 * slow), cost(BARE, run, 14 * slow), cost(OURS, run, 13 * slow)]
    assert median_ratio(rows, OURS, FLOOR, lambda figures: float(figures["server_us_per_request"])) == pytest.approx(
        1.3
    )
    assert median(rows, OURS, lambda figures: float(figures["server_us_per_request"])) == 13


def test_a_bar_is_met_or_missed_by_the_ratios() -> None:
    good = tables([cost(FLOOR, 1, 10), cost(BARE, 1, 13), cost(OURS, 1, 13)])
    assert line(good, OURS).endswith("1.35 × floor, 1 × bare: met |")
    bad = tables([cost(FLOOR, 1, 10), cost(BARE, 1, 13), cost(OURS, 1, 13.1)])
    assert line(bad, OURS).endswith("**missed** |")
    assert line(bad, BARE).endswith("|  |")


def test_nobody_meets_a_bar_at_a_rate_that_was_not_reached() -> None:
    slow = tables([cost(FLOOR, 1, 10), cost(BARE, 1, 13), cost(OURS, 1, 9, rate=20_000)])
    assert "9.0 (at its 20,000/s)" in line(slow, OURS)
    assert "**missed**: it did not keep up" in line(slow, OURS)
    busy = tables([cost(FLOOR, 1, 10, rate=20_000), cost(BARE, 1, 13), cost(OURS, 1, 9)])
    assert "none: the floor did not keep up" in line(busy, OURS)


def test_a_figure_of_a_run_with_failures_carries_a_mark_and_the_failure_is_told() -> None:
    rows = [cost(FLOOR, 1, 10), cost(BARE, 1, 13), cost(OURS, 1, 12, faults=["3 failed"])]
    text = tables(rows)
    assert line(text, f"{OURS} †")
    assert f"cost, repeated, {OURS}, run 1: 3 failed" in text


def test_latency_is_judged_by_the_plain_tail_or_by_the_floor_s_and_without_a_witness_says_unknown() -> None:
    def row(name: str, tail: float) -> Row:
        latency = {"p50": 50, "p99": 200, "p99.9": tail}
        return Row(
            "open loop",
            name,
            1,
            {"rate": 50_000, "seconds": 5, "latency_us": latency, "late_us": latency, "faults": []},
        )

    text = tables([row(FLOOR, 4000), row(BARE, 4000), row(OURS, 5900), row("Goloves, x", 6100), row("Goloves, y", 900)])
    assert line(text, OURS).endswith("met |")
    assert line(text, "Goloves, x").endswith("**missed** |")
    assert line(text, "Goloves, y").endswith("met |")
    assert "unknown" in line(text, OURS)


def test_a_burst_on_a_small_step_is_judged_by_the_large_one_and_by_its_errors() -> None:
    def row(step: str, rate: float, faults: list[str]) -> Row:
        return Row("burst", step, 1, {"rate": rate, "latency_us": {"p99.9": 900}, "faults": faults})

    def verdict(small: float, faults: list[str]) -> str:
        text = tables([row("step 10", small, faults), row("step 1,000,000", 100_000, [])])
        return line(text, "step 10").rpartition(":")[2]

    assert verdict(90_000, []) == " met |"
    assert verdict(89_000, []) == " **missed** |"
    assert verdict(100_000, ["1 warmup failed"]) == " **missed** |"


def test_the_microseconds_are_those_of_the_scenarios_beside() -> None:
    bare = {"bare: segment get, repeated": 1.0, "bare: segment get, different": 1.0}
    rows = [
        *(cost(name, 1, 12.0) for name in (FLOOR, BARE, OURS)),
        Row("user time", "Goloves", 1, {**bare, "segment get, repeated": 0.8, "segment get, different": 2.0}),
        Row("functions", "Goloves", 1, {"segment get, repeated: a.py: f": 0.9, "segment get, different: a.py: f": 0.5}),
    ]
    text = tables(rows)
    assert line(text, "all of it") == f"| all of it, at {COST_RATE:,}/s | 12.0 µs |  |"
    assert line(text, "the kernel").endswith("| 9.0 µs |  |")
    assert line(text, "the event loop").endswith("| 2.2 µs |  |")
    assert line(text, "Goloves' own code") == "| Goloves' own code | 0.80 µs | 2.00 µs |"
    assert line(text, "of that, `a.py: f`").endswith("| 90% | 50% |")


def node_figures(**changes: float) -> Row:
    names = ("imports_kb", "ready_kb", "working_kb", "with_idle_connections_kb", "idle_connections", "idle_tags")
    more = ("kb_per_idle_connection", "kb_per_idle_tag", "ready_s", "ready_few_s", "ready_few_rows", "ready_many_s")
    last = ("ready_many_rows", "first_words_s", "p99_beside_idle_connections_us")
    return Row("node", "Goloves", 1, {**dict.fromkeys([*names, *more, *last], 1.0), **changes})


def test_memory_with_idle_connections_and_the_start_over_many_tags_have_bars() -> None:
    good = tables([node_figures(with_idle_connections_kb=75 * 1024, ready_few_s=2, ready_many_s=2.4, first_words_s=2)])
    bad = tables([node_figures(with_idle_connections_kb=76 * 1024, ready_few_s=2.1, ready_many_s=2.6, first_words_s=3)])
    for what in ("memory of a node that has", "the same, 1 more", "the same, 1 of them", "start of a service"):
        assert line(good, what).endswith(": met |")
        assert line(bad, what).endswith(": **missed** |")


def result(**changes: Any) -> dict[str, Any]:
    rows = [vars(row) for row in (cost(FLOOR, 1, 10), cost(BARE, 1, 13), cost(OURS, 1, 12))]
    plan = {"runs": 5, "seconds": 5.0, "warmup": 1.0}
    base = {"began": "2026-01-01T00:00:00Z", "full": True, "plan": plan, "machine": {"CPU": "some"}, "left_out": {}}
    return {**base, "rows": rows, **changes}


def test_figures_come_into_the_page_between_its_markers_and_change_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, front, source = tmp_path / "benchmarks.md", tmp_path / "README.md", tmp_path / "result.json"
    for each in (page, front):
        each.write_text("before\n<!-- figures -->\nold\n<!-- end of figures -->\nafter\n")
    source.write_text(json.dumps(result()))
    kept = tmp_path / "results" / "latest.json"
    monkeypatch.setattr(program, "PAGE", page)
    monkeypatch.setattr(program, "FRONT", front)
    monkeypatch.setattr(program, "LATEST", kept)
    done = CliRunner().invoke(program.main, ["--from", str(source), "--write"])
    assert done.exit_code == 0, done.output
    text = page.read_text()
    assert text.startswith("before\n<!-- figures -->\n2026-01-01")
    assert text.endswith("\n<!-- end of figures -->\nafter\n")
    assert "old" not in text
    assert line(text, OURS)
    assert json.loads(kept.read_text()) == result()
    assert "(../benchmarks/results/latest.json)" in text
    assert (
        front.read_text()
        == f"before\n<!-- figures -->\n{program.front_page(result())}\n<!-- end of figures -->\nafter\n"
    )
    assert line(front.read_text(), "CPU of one id over HTTP")


def test_the_front_page_says_of_the_kept_run_what_its_tables_say() -> None:
    kept = json.loads(program.LATEST.read_text())
    text = program.FRONT.read_text().partition(program.BEGIN)[2].partition(program.END)[0].strip()
    assert text == program.front_page(kept), "run `make bench ARGS='--from benchmarks/results/latest.json --write'`"
    assert len(text.splitlines()) > 6
    assert all(f"--only {row[-1]}'" in text and row[-1] in program.SCENARIOS for row in FRONT_ROWS)


def test_a_bar_that_the_page_misses_is_missed_on_the_front_page_too() -> None:
    good = front([cost(FLOOR, 1, 10), cost(BARE, 1, 13), cost(OURS, 1, 13)])
    assert "| 13.0 µs, 1.30 × floor: met |  |" in good
    bad = front([cost(FLOOR, 1, 10), cost(BARE, 1, 13), cost(OURS, 1, 13.1, faults=["3 failed"])])
    assert "| 13.1 µs, 1.31 × floor: **missed** † |  |" in bad
    slow = front([cost(FLOOR, 1, 10), cost(BARE, 1, 13), cost(OURS, 1, 9, rate=20_000)])
    assert "9.0 µs (at its 20,000/s), 0.90 × floor: **missed**: it did not keep up" in slow


def test_a_small_number_of_ids_a_second_is_told_with_more_digits() -> None:
    rows = [
        Row("batches", name, 1, {"ids_per_second": rate, "ns_per_id": 1.0})
        for name, rate in {"one": 33_800.0, "many": 2.04e7}.items()
    ]
    assert "| 0.034 |" in line(tables(rows), "one")
    assert "| 20.4 |" in line(tables(rows), "many")


@pytest.mark.parametrize("words", [["--short"], ["--only", "closed"], ["--runs", "1"]])
def test_figures_of_a_part_or_of_a_short_run_are_not_put_before_people(words: list[str]) -> None:
    done = CliRunner().invoke(program.main, ["--write", *words])
    assert done.exit_code == 2
    assert "full length" in done.output


def test_the_json_of_a_short_run_is_not_put_before_people_either(tmp_path: Path) -> None:
    source = tmp_path / "result.json"
    source.write_text(json.dumps(result(full=False)))
    assert "not of a full run" in CliRunner().invoke(program.main, ["--from", str(source), "--write"]).output
    assert "shows that the benchmarks work" in CliRunner().invoke(program.main, ["--from", str(source)]).output


def test_an_id_that_came_twice_fails_the_benchmark(tmp_path: Path) -> None:
    source = tmp_path / "result.json"
    rows = [*result()["rows"], vars(cost(OURS, 2, 12, duplicates=1))]
    source.write_text(json.dumps(result(rows=rows)))
    done = CliRunner().invoke(program.main, ["--from", str(source)])
    assert done.exit_code == 1
    assert "an id came twice" in done.output


def test_the_page_has_its_place_for_figures() -> None:
    text = program.PAGE.read_text()
    assert text.index(program.BEGIN) < text.index(program.END)


@pytest.mark.parametrize(
    ("module", "figure"),
    [
        ("in_process", "Goloves, Snowflake"),
        ("user_time", "segment get, repeated"),
        ("functions", "segment get, different: protocol.py: _receive"),
    ],
)
def test_what_is_measured_without_sockets_can_still_be_measured(module: str, figure: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", "0.2"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert 0 < json.loads(done.stdout)[figure] < 100_000
