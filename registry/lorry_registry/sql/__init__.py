"""The Store in a relational database through SQLAlchemy: SQLite by default, PostgreSQL where registries share one."""
