"""The one policy: names to generators, refills, windows, deadlines. Every shell (HTTP, gRPC, library) uses it."""

from goloves.service.clock import Clock, SystemClock
from goloves.service.service import IdService
from goloves.service.spaces import ServedSpace

__all__ = ["Clock", "IdService", "ServedSpace", "SystemClock"]
