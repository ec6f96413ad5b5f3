import json

import pytest
import torch
from safetensors.torch import save_file

from engine.checkpoints import file_sha256
from engine.errors import InputError
from engine.scoring.evaluation_classifier import EvaluationClassifier, load_classifier
from tests.conftest import build, seeded

IMAGE_SHAPE = (1, 12, 16)


@pytest.fixture
def classifier(body):
    return build(lambda: EvaluationClassifier(image_shape=IMAGE_SHAPE, classes=3, body=body), 0)


@pytest.fixture(params=["small", "deep"])
def body(request):
    return request.param


@pytest.fixture
def weights(classifier, body, tmp_path):
    path = tmp_path / "judge.safetensors"
    save_file(classifier.state_dict(), path)
    settings = {"image_shape": IMAGE_SHAPE, "classes": 3}
    if body != "small":  # Cards of older weights name no body.
        settings["body"] = body
    card = {"settings": settings, "sha256": file_sha256(path)}
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


@pytest.mark.parametrize(
    "card",
    [
        {},
        {"settings": {}},
        {"settings": {"classes": 3}},
        {"settings": {"classes": 3, "image_shape": IMAGE_SHAPE, "body": "huge"}},
    ],
)
def test_an_incomplete_card_is_refused(card, weights):
    weights.with_suffix(".json").write_text(json.dumps(card))

    with pytest.raises(InputError):
        load_classifier(weights)
