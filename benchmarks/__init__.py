"""What the figures of docs/benchmarks.md come from; `make bench` runs it.

Rules:
1. Figures are ratios within one run: every contender gets its turn on the same machine within seconds of the others,
   and again, alternating. What is told is the median of the runs' ratios.
2. Latency runs from the time at which a request was meant to be sent (`load/`), and the generator's own delay stands
   beside it.
3. Each run counts what it did: answers, failures, ids that came twice, ranges that were refilled. A figure of a run in
   which something failed carries a mark.
4. Everything that was measured is kept as JSON, with the machine and all versions.
"""
