"""Makes what an audit starts from, out of public images: generator, judge, target weights, targets.

Each ``pretrain_*`` function writes safetensors and two cards beside them: JSON, which the loaders
read, and Markdown with a picture, which people read.
"""

from engine.pretraining.cards import Made
from engine.pretraining.classifiers import (
    ClassifierTraining,
    pretrain_classifier,
    pretrain_target_model,
    suited_classifier,
)
from engine.pretraining.generators import (
    PROJECTED_IMAGES,
    Watch,
    measure_generator,
    pretrain_generator,
    write_generator,
)
from engine.pretraining.judges import find_judge
from engine.pretraining.private_images import choose_private_images
from engine.pretraining.public_data import PublicData, read_public_data

__all__ = [
    "PROJECTED_IMAGES",
    "ClassifierTraining",
    "Made",
    "PublicData",
    "Watch",
    "choose_private_images",
    "find_judge",
    "measure_generator",
    "pretrain_classifier",
    "pretrain_generator",
    "pretrain_target_model",
    "read_public_data",
    "suited_classifier",
    "write_generator",
]
