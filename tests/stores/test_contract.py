"""Each store keeps the contract."""

from stores.contract import HaltContract, SegmentContract, WorkerContract


class TestSegments(SegmentContract):
    pass


class TestHalts(HaltContract):
    pass


class TestWorkers(WorkerContract):
    pass
