"""Small files in the layouts of data sets and weights that users fetch, with random contents."""

import json

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from engine.datasets.imagenet import CLASSES
from engine.generators import GENERATORS, BigGanGenerator
from engine.scoring.evaluation_classifier import EvaluationClassifier
from tests.conftest import build

# A network of every kind of layer that the published one has, and of its size of images.
TINY_BIGGAN = {
    "output_dim": 256,
    "z_dim": 8,
    "class_embed_dim": 8,
    "channel_width": 4,
    "num_classes": CLASSES,
    "layers": [
        [True, 16, 8],
        [True, 8, 8],
        [True, 8, 4],
        [True, 4, 4],
        [True, 4, 2],
        [True, 2, 1],
    ],
    "attention_layer_position": 2,
    "eps": 1e-4,
    "n_stats": 51,
}


def picture(seed, size):
    """Returns a smooth random picture of (width, height)."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def write_celeba(folder, pictures=30):
    """Writes as many pictures into each partition, every third of a man."""
    (folder / "img_align_celeba").mkdir(parents=True)
    names = [f"{number:06}.jpg" for number in range(1, 3 * pictures + 1)]
    for number, name in enumerate(names):
        picture(number, (178, 218)).save(folder / "img_align_celeba" / name)
    rows = [f"{name} -1  {1 if number % 3 == 0 else -1}  1" for number, name in enumerate(names)]
    header = [str(len(names)), "Eyeglasses Male Young "]
    (folder / "list_attr_celeba.txt").write_text("\n".join([*header, *rows]) + "\n")
    parts = [f"{name} {number // pictures}" for number, name in enumerate(names)]
    (folder / "list_eval_partition.txt").write_text("\n".join(parts) + "\n")
    return folder


def write_imagenet(folder, labels, pictures=6, split="val"):
    """Writes the folders of all classes, and pictures into those of some."""
    for label in range(CLASSES):
        (folder / split / wordnet_id(label)).mkdir(parents=True)
    for label in labels:
        for number in range(pictures):
            name = f"ILSVRC2012_val_{label:04}{number:04}.JPEG"
            place = folder / split / wordnet_id(label) / name
            picture(100 * label + number, (80, 64)).save(place)
    return folder


def wordnet_id(label):
    return f"n{1440764 + 1000 * label:08}"


def tiny_biggan(config=TINY_BIGGAN, image_shape=(3, 224, 224)):
    """Returns a generator of random weights, with what the package leaves undefined."""
    generator = BigGanGenerator(
        latent_dim=config["z_dim"],
        classes=config["num_classes"],
        image_shape=image_shape,
        config=config,
    )
    torch.nn.init.ones_(generator.network.generator.bn.weight)
    torch.nn.init.zeros_(generator.network.generator.bn.bias)
    for _ in range(5):  # Each call in training mode brings the spectral norms nearer to their own.
        generator(torch.zeros(1, config["z_dim"]), torch.zeros(1, dtype=torch.long))
    return generator


def write_biggan(folder, config=TINY_BIGGAN):
    """Writes what Hugging Face published of BigGAN, its weights as safetensors."""
    folder.mkdir(parents=True)
    generator = build(lambda: tiny_biggan(config), 0)
    save_file(generator.network.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder / "model.safetensors"


def write_generator(path, image_shape, classes):
    """Writes a small generator of random weights and its card."""
    settings = {"latent_dim": 4, "classes": classes, "image_shape": image_shape, "width": 8}
    made = build(lambda: GENERATORS.make("deconvolutional", **settings), 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(made.state_dict(), path)
    card = {"architecture": "deconvolutional", "settings": settings}
    path.with_suffix(".json").write_text(json.dumps(card))
    return path


def write_classifier(path, image_shape, classes):
    """Writes a small evaluation classifier and its card."""
    path.parent.mkdir(parents=True, exist_ok=True)
    judge = build(lambda: EvaluationClassifier(image_shape=image_shape, classes=classes), 1)
    save_file(judge.state_dict(), path)
    settings = {"image_shape": image_shape, "classes": classes}
    path.with_suffix(".json").write_text(json.dumps({"settings": settings}))
    return path


def write_celeba_setup(data):
    """Writes all that audits of CelebA-32 read, below a data folder."""
    folder = write_celeba(data / "celeba-32")
    write_generator(folder / "generator.safetensors", (3, 32, 32), 2)
    write_classifier(folder / "classifier.safetensors", (3, 32, 32), 2)
    return data


def write_imagenet_setup(data, targets=1):
    """Writes all that audits of ImageNet-224 read, but for a small classifier in ``judge``."""
    folder = write_imagenet(data / "imagenet-224", [619 * place % 1000 for place in range(targets)])
    write_biggan(folder / "biggan-deep-256")
    write_classifier(data / "judge.safetensors", (3, 224, 224), CLASSES)
    return data
