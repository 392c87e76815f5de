"""The trainer's random base: adapters of every kind are trained on it in a second each."""

from tests.trainer.conftest import base_folder

__all__ = ["base_folder"]
