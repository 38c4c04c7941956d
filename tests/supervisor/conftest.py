from supervisor.service import start

__all__ = ["start"]
