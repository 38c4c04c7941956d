"""Stores: where grants come from. Each keeps the contracts of `base.py`."""
