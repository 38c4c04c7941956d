"""The supervisor: the process that `goloves serve` is, beside the nodes that it starts.

It opens the listeners and keeps them for its whole life, so that no connection is refused while nodes come and go (P1).
It serves no ids, opens no store and holds no grant: what it does wrong can cost time and never uniqueness.

`supervisor.py` decides; `child.py` is one node as seen from here; `inside.py` is what runs in the node's process;
`messages.py` is what the two say to each other. `seats.py` gives each node a state directory of its own. `orders.py`
listens for `goloves reload`; `takeover.py` passes the listeners on to the supervisor of a next version.

Rules:
1. A node is a fresh interpreter, never a fork: nothing that was granted can be in two processes (P2).
2. A node's state directory is locked before the node is started, and the lock lives in the node alone: it ends with the
   process, whatever ends it. So no two nodes ever have one, also those of two supervisors.
3. Only the very first node of a start may make a store; whoever replaces it later may not, for a store that is missing
   then was lost (R8).
4. A node that hears no more from its supervisor stops by itself within a bound.
"""
