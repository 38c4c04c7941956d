"""How far a node is in its life; `node.py` says what happens in each stage."""

from enum import StrEnum


class Stage(StrEnum):
    """How far a node is in its life."""

    STARTING = "starting"
    SERVING = "serving"
    NOT_READY = "not ready"
    WAITING = "waiting"
    RELEASING = "releasing"
    STOPPED = "stopped"
