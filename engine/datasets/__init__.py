"""Data sets by name: the public images of attackers, and those that simulated clients hold."""

from engine.datasets.base import DATASETS, Dataset, LabelledImages, Split

__all__ = ["DATASETS", "Dataset", "LabelledImages", "Split"]
