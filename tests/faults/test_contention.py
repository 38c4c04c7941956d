"""Others at the same rows: Leaf's own SQL, transactions that deadlock with ours, locks and connections used up."""

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.pool import NullPool

from faults.conftest import Note
from faults.ground import BRISK, TAGS, Ground
from faults.ledger import LEAF, Ledger
from faults.load import Load, all_routes
from faults.nodes import Cluster, wait_for
