import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torchvision import models
from torchvision.transforms import Normalize

from engine.checkpoints import file_sha256
from engine.errors import InputError
from engine.scoring.evaluation_classifier import CLASSIFIERS, load_classifier
from tests.conftest import build, seeded

IMAGE_SHAPE = (1, 12, 16)


@pytest.fixture(params=["convolutional", "deep"])
def architecture(request):
    return request.param


@pytest.fixture
def classifier(architecture):
    return build(lambda: CLASSIFIERS.make(architecture, image_shape=IMAGE_SHAPE, classes=3), 0)


@pytest.fixture
def weights(classifier, architecture, tmp_path):
    path = tmp_path / "judge.safetensors"
    save_file(classifier.state_dict(), path)
    card = {"settings": {"image_shape": IMAGE_SHAPE, "classes": 3}, "sha256": file_sha256(path)}
    if architecture != "convolutional":  # Cards of older weights name none.
        card["architecture"] = architecture
    path.with_suffix(".json").write_text(json.dumps(card))
    return path


def test_features_are_what_the_logits_are_linear_in(classifier):
    images = torch.rand(2, *IMAGE_SHAPE, generator=seeded(0))

    features = classifier.features(images)

    assert features.shape == (2, 64)
    expected = features @ classifier.classifier.weight.T + classifier.classifier.bias
    torch.testing.assert_close(classifier(images), expected)


def test_is_loaded_frozen_in_evaluation_mode(classifier, weights):
    images = torch.rand(2, *IMAGE_SHAPE, generator=seeded(0))

    loaded = load_classifier(weights)

    assert torch.equal(loaded(images), classifier(images))
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_other_weights_than_the_cards_are_refused(classifier, weights):
    save_file({name: t + 1 for name, t in classifier.state_dict().items()}, weights)

    with pytest.raises(InputError, match="sha256"):
        load_classifier(weights)


@pytest.mark.parametrize("card", [{}, {"settings": {}}, {"settings": {"classes": 3}}])
def test_an_incomplete_card_is_refused(card, weights):
    weights.with_suffix(".json").write_text(json.dumps(card))

    with pytest.raises(InputError):
        load_classifier(weights)


@pytest.fixture(scope="module")
def resnet50(tmp_path_factory):
    """Weights as torchvision names them, without a card."""
    path = tmp_path_factory.mktemp("weights") / "resnet50.safetensors"
    save_file(build(lambda: models.resnet50(num_classes=7), 0).state_dict(), path)
    return path


RESNET50 = {"architecture": "resnet50", "settings": {"image_shape": [3, 32, 40], "classes": 7}}


def test_a_resnet50_judges_images_normalised_as_it_was_trained(resnet50):
    images = torch.rand(2, 3, 32, 40, generator=seeded(0))
    network = build(lambda: models.resnet50(num_classes=7), 0)

    judge = load_classifier(resnet50, card=RESNET50)

    as_trained = Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])(images)
    assert judge.image_shape == (3, 32, 40)
    torch.testing.assert_close(judge(images), network(as_trained))
    features = judge.features(images)
    assert features.shape == (2, 2048)
    torch.testing.assert_close(network.fc(features), judge(images))
    assert not judge.training
    assert not any(parameter.requires_grad for parameter in judge.parameters())


def test_a_card_beside_the_weights_wins_over_the_one_expected(resnet50, tmp_path):
    beside = shutil.copy(resnet50, tmp_path)
    settings = {"image_shape": [3, 8, 8], "classes": 7}
    card = json.dumps(RESNET50 | {"settings": settings})
    (tmp_path / "resnet50.json").write_text(card)

    assert load_classifier(Path(beside), card=RESNET50).image_shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "resnet51"}, "an architecture of convolutional, deep, resnet50"),
        ({"settings": {"image_shape": [1, 8, 8], "classes": 7}}, "image_shape .3, H, W. for"),
        ({"settings": {"image_shape": [3, 8, 8], "classes": 8}}, r"fc.bias is \(7,\), expected"),
        ({"architecture": "convolutional"}, "Expected weights of EvaluationClassifier"),
    ],
)
def test_a_card_of_another_network_is_refused(resnet50, changes, message):
    with pytest.raises(InputError, match=message):
        load_classifier(resnet50, card=RESNET50 | changes)
