"""What adapters do to a base, whatever their kind: `weights` has the forms, `read` makes them of an adapter's files."""
