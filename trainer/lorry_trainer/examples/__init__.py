"""Data sets and recipes to try the trainer with."""
