import pytest
import torch

from engine.datasets import LabelledImages
from engine.generators import GENERATORS
from engine.pretraining import generators, measure_generator
from engine.scoring.evaluation_classifier import EvaluationClassifier
from engine.scoring.metrics import psnr
from tests.conftest import CLASSES, IMAGE_SHAPE, TinyGenerator, build, seeded

JUDGE = build(lambda: EvaluationClassifier(image_shape=IMAGE_SHAPE, classes=CLASSES), 4)


@pytest.fixture
def generator():
    return build(TinyGenerator, 2)


@pytest.fixture
def test_images(generator):
    """Images that the generator can draw, sorted by class."""
    labels = torch.arange(40) // 10
    images = generator(torch.randn(40, generator.latent_dim, generator=seeded(0)), labels)
    return LabelledImages((images * 255).round().to(torch.uint8), labels)


def test_images_the_generator_can_draw_are_projected_almost_perfectly(generator, test_images):
    figures = measure_generator(generator, test_images, JUDGE, seed=0, projected=8)

    assert figures["projected_images"] == 8
    assert figures["oracle_psnr_db"] > 40


def test_the_projected_images_are_spread_over_the_classes(generator, test_images, monkeypatch):
    seen = []

    def project(generate, truths, labels, **_):
        seen.extend(labels.tolist())
        return type("Projection", (), {"images": truths * 0.5})

    monkeypatch.setattr(generators, "project", project)

    figures = measure_generator(generator, test_images, None, seed=0, projected=8)

    assert seen == [0, 0, 1, 1, 2, 2, 3, 3]
    truths = test_images.images[::5] / 255
    assert figures == {
        "oracle_psnr_db": pytest.approx(float(psnr(truths / 2, truths).mean()), abs=1e-3),
        "projected_images": 8,
    }


def test_figures_do_not_depend_on_how_many_images_are_looked_at_together(
    generator, test_images, monkeypatch
):
    whole = measure_generator(generator, test_images, JUDGE, seed=0, projected=1)
    monkeypatch.setattr(generators, "CHUNK", 7)

    assert measure_generator(generator, test_images, JUDGE, seed=0, projected=1) == whole


def test_what_no_class_is_drawn_for_is_not_recognised(test_images):
    settings = {"latent_dim": 3, "classes": CLASSES, "image_shape": IMAGE_SHAPE, "width": 8}
    generator = build(lambda: GENERATORS.make("mlp", **settings, conditional=False), 0)

    figures = measure_generator(generator, test_images, JUDGE, seed=0, projected=1)

    assert "recognised" not in figures
    assert figures["frechet_distance"] >= 0
