"""What SQLite cannot alter: Alembic makes each table anew, copies its rows, drops the old one and renames."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "3", "2"


def upgrade():
    with op.batch_alter_table("post", recreate="always") as batch:
        batch.alter_column("title", type_=sa.String(200), existing_nullable=False)
        batch.create_check_constraint("price_is_no_debt", "price >= 0")
        batch.create_index("post_by_title", ["title"])
    with op.batch_alter_table("user", recreate="always") as batch:
        batch.alter_column("name", type_=sa.String(200), existing_nullable=False)
