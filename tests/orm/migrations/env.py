"""How Alembic reaches the database: with foreign keys off, as its page on batch migrations says."""

from alembic import context
from app import Base, engine_of

with engine_of(context.config.get_main_option("database"), foreign_keys=False).connect() as connection:
    context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()
