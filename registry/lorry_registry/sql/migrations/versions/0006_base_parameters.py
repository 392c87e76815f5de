"""What a base has besides linear layers: the parameters that an adapter may change."""

import sqlalchemy as sa
from alembic import op

revision = "0006_base_parameters"
down_revision = "0005_uploads"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("bases", schema=None) as batch_op:
        batch_op.add_column(sa.Column("parameters", sa.JSON(), nullable=True))
