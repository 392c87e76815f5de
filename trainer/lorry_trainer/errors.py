"""What can go wrong, by who can put it right. Every message names the value, the rule and the way out."""

from __future__ import annotations


class TrainerError(Exception):
    """Base of all of them. `exit_code` is what `lorry train` ends with."""

    exit_code = 1


class RecipeError(TrainerError):
    """The recipe cannot be followed: an unknown key, a wrong value, a file or a base that is not there."""

    exit_code = 2


class DataError(TrainerError):
    """The data cannot be learnt from. The message names the file and, where there is one, the row."""

    exit_code = 2


class TrainingError(TrainerError):
    """Training started and failed."""


class OutputError(TrainerError):
    """The adapter folder cannot be written."""
