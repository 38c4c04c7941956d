"""What repairs, skips and windows leave behind in the store. A Goloves that knows only 0001 may leave it alone."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

ADDED = {"goloves_meta": ["repairs"], "goloves_space": ["fence", "longest"]}


def upgrade() -> None:
    """Add what does not exist."""
    connection = op.get_bind()
    inspector = sa.inspect(connection)
    big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    for table, columns in ADDED.items():
        there = {column["name"] for column in inspector.get_columns(table)}
        for name in columns:
            if name not in there:
                op.add_column(table, sa.Column(name, big, nullable=False, server_default="0"))
