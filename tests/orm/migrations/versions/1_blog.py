"""All tables."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "1", None


def upgrade():
    op.create_table(
        "user",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("email", sa.String(100), nullable=False, unique=True),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("invited_by_id", sa.Integer, sa.ForeignKey("user.id", ondelete="SET NULL")),
    )
    op.create_table(
        "profile",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("user_id", sa.Integer, sa.ForeignKey("user.id", ondelete="CASCADE"), nullable=False, unique=True),
        sa.Column("bio", sa.String, nullable=False),
    )
    op.create_table(
        "tag",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("word", sa.String, nullable=False, unique=True),
    )
    op.create_table(
        "post",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("author_id", sa.Integer, sa.ForeignKey("user.id", ondelete="CASCADE"), nullable=False, index=True),
        sa.Column("reply_to_id", sa.Integer, sa.ForeignKey("post.id", ondelete="CASCADE")),
        sa.Column("slug", sa.String, nullable=False),
        sa.Column("title", sa.String, nullable=False),
        sa.Column("written", sa.DateTime, nullable=False),
        sa.Column("price", sa.Numeric(8, 2), nullable=False),
        sa.Column("is_draft", sa.Boolean, nullable=False),
        sa.UniqueConstraint("author_id", "slug"),
    )
    op.create_table(
        "post_tag",
        sa.Column("post_id", sa.Integer, sa.ForeignKey("post.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("tag_id", sa.Integer, sa.ForeignKey("tag.id", ondelete="CASCADE"), primary_key=True),
    )
