"""What can go wrong, by who can put it right. Every message names the value, the rule and the way out."""

from __future__ import annotations

from typing import ClassVar


class TrainerError(Exception):
    """Base of all of them. `code` and `reason` are for programs, as with the client's errors."""

    exit_code: ClassVar[int] = 1  # what `lorry train` ends with
    code: ClassVar[str] = "INTERNAL"
    reason: ClassVar[str] = "TRAINING_FAILED"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class RecipeError(TrainerError):
    """The recipe cannot be followed: an unknown key, a wrong value, a base that is not there."""

    exit_code = 2
    code = "INVALID_ARGUMENT"
    reason = "INVALID_RECIPE"


class DataError(TrainerError):
    """The data cannot be learnt from. The message names the file and, where there is one, the row."""

    exit_code = 2
    code = "INVALID_ARGUMENT"
    reason = "INVALID_DATA"


class TrainingError(TrainerError):
    """Training started and failed."""


class OutputError(TrainerError):
    """The adapter folder cannot be written."""

    code = "FAILED_PRECONDITION"
    reason = "OUTPUT_NOT_WRITABLE"


class UnusableBase(TrainerError):
    """The base is not there, or cannot be described."""

    exit_code = 2
    code = "INVALID_ARGUMENT"
    reason = "BASE_UNUSABLE"


class ConversionError(TrainerError):
    """The adapter cannot be converted to LoRA."""

    exit_code = 2
    code = "INVALID_ARGUMENT"
    reason = "NOT_CONVERTIBLE"
