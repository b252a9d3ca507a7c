"""Initial tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Step up."""
    op.create_table(
        "serving_targets",
        sa.Column("model", sa.String(length=500), nullable=False),
        sa.Column("desired_replicas", sa.Integer(), nullable=True),
        sa.Column("pinned", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("model"),
    )


def downgrade() -> None:
    """Step down."""
    op.drop_table("serving_targets")
