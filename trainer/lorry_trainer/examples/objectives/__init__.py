"""A recipe for every objective, with data of its own."""
