"""A post: where one node serves after another. How long to wait between two, and when to raise an alarm.

A node that ends after a long life is replaced at once; one that ends again and again is replaced more and more slowly,
so that a fault that every node has does not take the machine with it, and a store is not asked for a worker id a
hundred times a minute.
"""

from goloves.supervisor.child import Child

STEADY = 60.0
"""Seconds of life after which what came before is forgotten."""

FIRST_WAIT = 0.1
"""Seconds before the second restart within a short time; each further one waits twice as long."""

LONGEST_WAIT = 10.0
"""Seconds: whoever mends the cause need not wait longer for the next attempt."""

LOOP = 5
"""Ends in a row, none after a steady life, that are called a crash loop."""


class Post:
    """One of the nodes that there are to be."""

    def __init__(self) -> None:
        self.child: Child | None = None
        self.successor: Child | None = None
        """A node that starts, or has started, to take this post over."""
        self.closed = False
        """Whether nobody is to come after the present node."""
        self.restarts = 0
        """Nodes that ended without being told to."""
        self.in_a_row = 0

    def wait(self, lived: float) -> float:
        """Note the end of a node that nobody told to stop; gives the seconds to wait before the next one."""
        self.restarts += 1
        if lived >= STEADY:
            self.in_a_row = 0
        self.in_a_row += 1
        if self.in_a_row == 1:
            return 0.0
        return min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** (self.in_a_row - 2))

    def is_steady(self, lived: float) -> None:
        """Note that the present node has lived for so many seconds."""
        if lived >= STEADY:
            self.in_a_row = 0

    @property
    def loops(self) -> bool:
        """Whether its nodes end again and again."""
        return self.in_a_row >= LOOP
