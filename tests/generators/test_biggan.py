import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load, save_file

from engine.errors import InfrastructureError, InputError, PlanError
from engine.generators import GENERATORS, biggan, load_generator
from engine.generators.biggan import fold_spectral_norms
from search_spaces.latent_spaces.features import feature_directions
from tests.conftest import build, seeded
from tests.datasets.layouts import TINY_BIGGAN, tiny_biggan, write_biggan

# The published configuration: https://s3.amazonaws.com/models.huggingface.co/biggan/
PUBLISHED = {
    "attention_layer_position": 8,
    "channel_width": 128,
    "class_embed_dim": 128,
    "eps": 0.0001,
    "layers": [
        *([False, 16, 16], [True, 16, 16], [False, 16, 16], [True, 16, 8], [False, 8, 8]),
        *([True, 8, 8], [False, 8, 8], [True, 8, 4], [False, 4, 4], [True, 4, 2]),
        *([False, 2, 2], [True, 2, 1]),
    ],
    "n_stats": 51,
    "num_classes": 1000,
    "output_dim": 256,
    "z_dim": 128,
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_biggan(tmp_path_factory.mktemp("data") / "biggan-deep-256")


@pytest.fixture
def weights(written, tmp_path):
    return shutil.copytree(written.parent, tmp_path / "biggan-deep-256") / written.name


def drawn(generator, count=3):
    latents = torch.randn(count, generator.latent_dim, generator=seeded(0))
    return generator(latents, torch.tensor([0, 999, 123])[:count])


def test_files_as_published_need_no_other_card(written):
    loaded = load_generator(written)

    assert (loaded.latent_dim, loaded.classes, loaded.image_shape) == (8, 1000, (3, 224, 224))
    assert not any(module.training for module in loaded.modules())
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_images_are_the_packages_own_by_area_and_in_0_to_1(written):
    network = build(tiny_biggan, 0).network
    latents, labels = torch.randn(2, 8, generator=seeded(1)), torch.tensor([5, 700])
    one_hot = torch.eye(1000)[labels]
    with torch.no_grad():
        made = network(latents, one_hot, 1.0)
    expected = torch.nn.functional.interpolate(made, size=(224, 224), mode="area") / 2 + 0.5

    images = load_generator(written)(latents, labels)

    assert made.shape == (2, 3, 256, 256)
    torch.testing.assert_close(images, expected)


def test_it_is_pure_where_the_published_code_drifts(written):
    loaded = load_generator(written)
    published = tiny_biggan().train()  # As it is left there.

    assert torch.equal(drawn(loaded), drawn(loaded))
    with torch.no_grad():
        assert not torch.equal(drawn(published), drawn(published))


def test_split_after_any_block_it_makes_the_packages_images(written):
    loaded = load_generator(written)
    latents, labels = torch.randn(2, 8, generator=seeded(1)), torch.tensor([5, 700])
    images = loaded(latents, labels)

    assert loaded.stages == len(TINY_BIGGAN["layers"])
    for stage in range(1, loaded.stages + 1):
        features = loaded.to_features(latents, labels, stage)
        torch.testing.assert_close(loaded.from_features(features, labels, stage), images)
        assert torch.equal(features[:, -8:], latents)
        moved = features.index_fill(1, torch.tensor([0]), 1e3)
        assert not torch.allclose(loaded.from_features(moved, labels, stage), images)


def test_moves_of_its_features_leave_the_latent_that_later_blocks_look_at(written):
    loaded = load_generator(written)

    directions = feature_directions(loaded, 5, 2, 4, torch.device("cpu"))

    lengths = directions.norm(dim=1)
    assert (lengths > 0).all()
    assert (directions[:, -8:].norm(dim=1) < 1e-4 * lengths).all()


def test_folding_spectral_norms_changes_no_image():
    generator = build(tiny_biggan, 0)
    before = drawn(generator)

    fold_spectral_norms(generator)

    torch.testing.assert_close(drawn(generator), before)
    assert not any("weight_orig" in name for name, _ in generator.named_parameters())


def test_truncation_chooses_among_the_statistics_of_its_normalisations():
    whole = build(tiny_biggan, 0)
    network = whole.network.generator
    network.bn.running_vars[25] = 4.0

    whole.truncation = 0.5
    half = drawn(whole)
    whole.truncation = 1.0

    assert not torch.allclose(half, drawn(whole))


def test_a_card_of_ours_may_set_the_truncation(weights):
    tensors = load(weights.read_bytes())
    save_file({f"network.{name}": tensor for name, tensor in tensors.items()}, weights)
    settings = {"latent_dim": 8, "classes": 1000, "image_shape": [3, 64, 64], "truncation": 0.5}
    card = {"architecture": "biggan", "settings": {**settings, "config": TINY_BIGGAN}}
    weights.with_suffix(".json").write_text(json.dumps(card))

    loaded = load_generator(weights)

    assert (loaded.truncation, loaded.image_shape) == (0.5, (3, 64, 64))


@pytest.mark.parametrize("truncation", [0, -1, 1.5])
def test_a_truncation_out_of_range_is_refused(truncation):
    settings = {"latent_dim": 8, "classes": 1000, "image_shape": (3, 224, 224)}

    with pytest.raises(PlanError, match=r"truncation in \(0, 1\]"):
        GENERATORS.make("biggan", **settings, config=TINY_BIGGAN, truncation=truncation)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output_dim": 128}, r"layers for 256 pixels and output_dim: 128"),
        (
            {"output_dim": 128, "layers": TINY_BIGGAN["layers"][1:]},
            "of 256 pixels, got one of 128 .* Use biggan-deep-256",
        ),
        ({"layers": 5}, "layers that are not of three values"),
        ({"layers": [[1, 2, 3]]}, "layers that are not of three values"),
        ({"z_dim": "128"}, "z_dim: '128'"),
        ({"n_stats": 0}, "n_stats: 0"),
        ({"channel_width": 8}, "Expected weights of BigGanGenerator, but .* has other ones"),
        ({"z_dim": 16}, "has other ones: network.*expected"),
    ],
)
def test_the_configuration_of_another_size_or_thing_is_refused(weights, changes, message):
    weights.with_name("config.json").write_text(json.dumps(TINY_BIGGAN | changes))

    with pytest.raises(InputError, match=message):
        load_generator(weights)


def test_keys_that_are_missing_are_named(weights):
    weights.with_name("config.json").write_text(json.dumps({"z_dim": 8, "eps": 1e-4}))

    with pytest.raises(InputError, match=r"got no output_dim, class_embed_dim, .*published with"):
        load_generator(weights)


def test_truncated_weights_are_refused(weights):
    weights.write_bytes(weights.read_bytes()[:-1000])

    with pytest.raises(InputError, match="whole safetensors file"):
        load_generator(weights)


def test_the_published_pickle_is_refused_unopened_and_converts_as_the_guidance_says(weights):
    tensors = load(weights.read_bytes())
    torch.save(tensors, weights)
    with pytest.raises(InputError, match="which holds a pickle"):
        load_generator(weights)

    pickled = weights.with_name("biggan-deep-256-pytorch_model.bin")
    weights.rename(pickled)
    command = biggan.GUIDANCE.partition('python -c "')[2].partition('"')[0]
    here = command.replace(f"'{pickled.name}'", repr(str(pickled)))
    exec(here.replace("'model.safetensors'", repr(str(weights))), {})

    converted = load(weights.read_bytes())
    assert converted.keys() == tensors.keys()
    assert load_generator(weights).classes == 1000


def test_without_its_package_the_message_says_how_to_install_it(written, monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_pretrained_biggan", None)

    with pytest.raises(InfrastructureError, match="pip install 'pytorch-pretrained-biggan'"):
        load_generator(written)


@pytest.mark.slow
def test_the_published_configuration_is_of_the_published_size(tmp_path):
    folder = tmp_path / "biggan-deep-256"
    loaded = load_generator(write_biggan(folder, PUBLISHED))

    # As the package's documentation states it.
    whole = tiny_biggan(PUBLISHED)
    assert round(sum(p.numel() for p in whole.parameters()) / 1e6, 1) == 55.9
    assert drawn(loaded, 1).shape == (1, 3, 224, 224)
