"""The revisions of the schema, one after the other. README.md says how to add one; `sql.schema` runs them."""
