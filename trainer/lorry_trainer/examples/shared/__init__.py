"""Recipes on data that Lorry does not ship."""
