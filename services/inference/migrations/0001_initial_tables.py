"""Initial tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Step up."""
    op.create_table(
        "discarded_assets",
        sa.Column("asset", sa.String(length=64), nullable=False),
        sa.Column("account", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("asset"),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("account", sa.String(length=64), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("job", sa.String(length=64), nullable=False),
        sa.Column("create_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("account", "key"),
    )
    with op.batch_alter_table("idempotency_keys", schema=None) as batch_op:
        batch_op.create_index("idempotency_keys_by_age", ["create_us"], unique=False)

    op.create_table(
        "inference_processes",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("beat", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "job_events",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Integer(), nullable=False),
        sa.Column("event_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", "revision"),
    )
    op.create_table(
        "job_inputs",
        sa.Column("job", sa.String(length=64), nullable=False),
        sa.Column("asset", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("job", "asset"),
    )
    with op.batch_alter_table("job_inputs", schema=None) as batch_op:
        batch_op.create_index("job_inputs_by_asset", ["asset"], unique=False)

    op.create_table(
        "jobs",
        sa.Column(
            "sequence",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("account", sa.String(length=64), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("state", sa.Integer(), nullable=False),
        sa.Column("rank_us", sa.BigInteger(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("turn_end_us", sa.BigInteger(), nullable=False),
        sa.Column("owner", sa.String(length=40), nullable=False),
        sa.Column("model", sa.String(length=512), nullable=False),
        sa.Column("dialect", sa.String(length=63), nullable=False),
        sa.Column("create_us", sa.BigInteger(), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("finish_us", sa.BigInteger(), nullable=True),
        sa.Column("message", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("sequence"),
        sa.UniqueConstraint("name"),
    )
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.create_index("jobs_by_account", ["account", "sequence"], unique=False)
        batch_op.create_index("jobs_by_account_state", ["account", "state"], unique=False)
        batch_op.create_index("jobs_by_end", ["finish_us"], unique=False)
        batch_op.create_index("jobs_by_priority", ["state", "priority", "rank_us"], unique=False)
        batch_op.create_index("jobs_by_state", ["state", "rank_us", "sequence"], unique=False)
        batch_op.create_index(
            "jobs_by_turn", ["state", "priority", "account", "turn_end_us"], unique=False
        )

    op.create_table(
        "outbox",
        sa.Column(
            "sequence",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("job", sa.String(length=64), nullable=False),
        sa.Column("topic", sa.String(length=20), nullable=False),
        sa.Column("attempt_count", sa.Integer(), nullable=False),
        sa.Column("due_us", sa.BigInteger(), nullable=False),
        sa.Column("create_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("sequence"),
    )
    with op.batch_alter_table("outbox", schema=None) as batch_op:
        batch_op.create_index("outbox_by_job", ["job"], unique=False)
        batch_op.create_index("outbox_by_time", ["due_us", "sequence"], unique=False)

    op.create_table(
        "webhook_deliveries",
        sa.Column(
            "sequence",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("account", sa.String(length=64), nullable=False),
        sa.Column("job", sa.String(length=64), nullable=False),
        sa.Column("url", sa.String(length=4096), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("status_code", sa.Integer(), nullable=False),
        sa.Column("error", sa.String(length=200), nullable=False),
        sa.Column("send_us", sa.BigInteger(), nullable=False),
        sa.Column("duration_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("sequence"),
    )
    with op.batch_alter_table("webhook_deliveries", schema=None) as batch_op:
        batch_op.create_index("deliveries_by_account", ["account", "sequence"], unique=False)
        batch_op.create_index("deliveries_by_job", ["job", "sequence"], unique=False)
        batch_op.create_index("deliveries_by_time", ["send_us"], unique=False)


def downgrade() -> None:
    """Step down."""
    with op.batch_alter_table("webhook_deliveries", schema=None) as batch_op:
        batch_op.drop_index("deliveries_by_time")
        batch_op.drop_index("deliveries_by_job")
        batch_op.drop_index("deliveries_by_account")

    op.drop_table("webhook_deliveries")
    with op.batch_alter_table("outbox", schema=None) as batch_op:
        batch_op.drop_index("outbox_by_time")
        batch_op.drop_index("outbox_by_job")

    op.drop_table("outbox")
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_index("jobs_by_turn")
        batch_op.drop_index("jobs_by_state")
        batch_op.drop_index("jobs_by_priority")
        batch_op.drop_index("jobs_by_end")
        batch_op.drop_index("jobs_by_account_state")
        batch_op.drop_index("jobs_by_account")

    op.drop_table("jobs")
    with op.batch_alter_table("job_inputs", schema=None) as batch_op:
        batch_op.drop_index("job_inputs_by_asset")

    op.drop_table("job_inputs")
    op.drop_table("job_events")
    op.drop_table("inference_processes")
    with op.batch_alter_table("idempotency_keys", schema=None) as batch_op:
        batch_op.drop_index("idempotency_keys_by_age")

    op.drop_table("idempotency_keys")
    op.drop_table("discarded_assets")
