"""Data sets by name: the public images of attackers, and those that simulated clients hold."""

from engine.datasets.base import DATASETS, Dataset, LabelledImages, Split
from engine.datasets.celeba import CelebA32
from engine.datasets.cifar10 import Cifar10
from engine.datasets.fashion_mnist import FashionMnist
from engine.datasets.folder import Folder
from engine.datasets.imagenet import ImageNet224

__all__ = [
    "DATASETS",
    "CelebA32",
    "Cifar10",
    "Dataset",
    "FashionMnist",
    "Folder",
    "ImageNet224",
    "LabelledImages",
    "Split",
]
