import json

import pytest
import torch
from safetensors.torch import save_file

from engine.checkpoints import file_sha256
from engine.errors import AuditError, InputError
from engine.generators import GENERATORS, load_generator
from tests.conftest import build, seeded

SETTINGS = {"latent_dim": 2, "classes": 3, "image_shape": (1, 4, 4), "width": 5}


@pytest.fixture
def generator():
    return build(lambda: GENERATORS.make("mlp", **SETTINGS), 0)


@pytest.fixture
def weights(generator, tmp_path):
    path = tmp_path / "mlp.safetensors"
    save_file(generator.state_dict(), path)
    write_card(path)
    return path


def write_card(path, **changes):
    card = {"architecture": "mlp", "settings": SETTINGS, "sha256": file_sha256(path), **changes}
    path.with_suffix(".json").write_text(json.dumps(card))


def test_the_loaded_generator_draws_the_same_images(generator, weights):
    latents, labels = torch.randn(3, 2, generator=seeded(0)), torch.tensor([0, 1, 2])

    assert torch.equal(load_generator(weights)(latents, labels), generator(latents, labels))


def test_the_loaded_generator_is_frozen_in_evaluation_mode(weights):
    loaded = load_generator(weights)

    assert not any(module.training for module in loaded.modules())
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert loaded.image_shape == (1, 4, 4)


def test_a_missing_card_is_refused(weights):
    weights.with_suffix(".json").unlink()

    with pytest.raises(InputError, match="Expected a card"):
        load_generator(weights)


@pytest.mark.parametrize("place", ["card", "argument"])
def test_another_hash_is_refused(weights, place):
    if place == "card":
        write_card(weights, sha256="0" * 64)

    with pytest.raises(InputError, match="sha256"):
        load_generator(weights, sha256="0" * 64 if place == "argument" else None)


@pytest.mark.parametrize(
    "changes",
    [
        {"settings": None},
        {"settings": {"latent_dim": 2}},
        {"settings": {**SETTINGS, "image_shape": 4}},
        {"settings": {**SETTINGS, "width": 6}},
        {"architecture": "gan"},
        {"architecture": None},
    ],
)
def test_a_card_of_something_else_is_refused(changes, weights):
    write_card(weights, **changes)

    with pytest.raises(AuditError):
        load_generator(weights)


def test_weights_that_are_not_finite_are_refused(generator, weights):
    state = generator.state_dict()
    state["layers.6.bias"] = torch.full((16,), float("nan"))
    save_file(state, weights)
    write_card(weights)

    with pytest.raises(InputError, match=r"Expected images in \[0, 1\]"):
        load_generator(weights)
