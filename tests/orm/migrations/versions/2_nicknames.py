"""A new column, by ALTER TABLE."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "2", "1"


def upgrade():
    op.add_column("user", sa.Column("nickname", sa.String, nullable=False, server_default=""))
