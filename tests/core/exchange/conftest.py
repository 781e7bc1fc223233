"""The small models of the tests of prediction."""

from tests.core.inference.conftest import cascade_folder, description, model_folder, plan

__all__ = ["cascade_folder", "description", "model_folder", "plan"]
