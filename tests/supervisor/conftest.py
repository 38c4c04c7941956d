from supervisor.service import notified, start

__all__ = ["notified", "start"]
