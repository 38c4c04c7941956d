"""Alembic's environment: runs the migrations on the connection that `upgrade` was given."""

from alembic import context

from goloves.stores import schema

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=schema.metadata,
    version_table=schema.REVISION_TABLE,
)
with context.begin_transaction():
    context.run_migrations()
