"""Alembic's environment: it is handed a connection by ncpl_cli.store.migrate and opens none itself."""

from __future__ import annotations

from alembic import context

from ncpl_cli.store.schema import VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,
    transaction_per_migration=False,
    transactional_ddl=False,  # the caller's one IMMEDIATE transaction surrounds the whole upgrade
)
context.run_migrations()
