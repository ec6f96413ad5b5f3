import shutil

import pytest
import torch
from safetensors.torch import save_file
from torchvision import models

from engine.errors import InfrastructureError, InputError
from engine.scoring import perceptual
from engine.scoring.perceptual import BACKBONES, load_lpips, lpips_weights
from tests.conftest import build, seeded


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """A data folder with random weights for both networks."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "lpips").mkdir()
    for name, backbone in BACKBONES.items():
        network = build(getattr(models, backbone.name), 0)
        save_file(network.features.state_dict(), folder / "lpips" / f"{name}.safetensors")
    return folder


@pytest.fixture
def folder(written, tmp_path):
    return shutil.copytree(written, tmp_path / "data")


def pair(side, channels=3, count=3):
    rng = seeded(side)
    images, truths = (torch.rand(count, channels, side, side, generator=rng) for _ in range(2))
    truths[0] = images[0]
    return images, truths


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize(("side", "channels"), [(32, 3), (40, 1), (20, 3)])
def test_equal_images_have_no_distance_and_others_have_some(written, name, side, channels):
    metric = load_lpips(written)[BACKBONES[name].metric]

    distances = metric(*pair(side, channels))

    assert distances.shape == (3,)
    assert distances[0] == 0
    assert (distances[1:] > 1e-4).all()


def test_many_pairs_have_the_distances_they_have_alone(written):
    metric = load_lpips(written)["lpips"]
    images, truths = pair(32, count=perceptual.AT_ONCE + 3)

    alone = [metric(image[None], truth[None]) for image, truth in zip(images, truths, strict=True)]

    torch.testing.assert_close(metric(images, truths), torch.cat(alone))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torchmetrics' own, on import.
@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("side", [32, 70])
def test_distances_are_those_of_torchmetrics(written, name, side):
    from torchmetrics.functional.image.lpips import _LPIPS

    oracle = _LPIPS(net=name, pnet_rand=True)
    ours = load_lpips(written)[BACKBONES[name].metric]
    theirs = [p for n, p in oracle.net.named_parameters() if n.startswith("slice")]
    mine = list(ours.layers.parameters())
    with torch.no_grad():
        for to, out_of in zip(theirs, mine, strict=True):
            to.copy_(out_of)
    images, truths = pair(side)

    expected = oracle(images, truths, normalize=True).flatten()

    torch.testing.assert_close(ours(images, truths), expected, atol=1e-6, rtol=1e-4)


def test_without_weights_there_is_no_metric_and_nothing_is_fetched(tmp_path):
    assert load_lpips(tmp_path) == {}
    assert lpips_weights(tmp_path) == {}
    assert list(tmp_path.iterdir()) == []


def test_each_network_is_there_by_itself(folder):
    (folder / "lpips" / "alex.safetensors").unlink()

    assert list(load_lpips(folder)) == ["lpips_vgg"]
    assert list(lpips_weights(folder)) == ["vgg"]


def test_a_pickle_in_place_of_weights_is_refused_unopened(folder):
    path = folder / "lpips" / "alex.safetensors"
    path.unlink()
    torch.save(build(models.alexnet, 0).state_dict(), path)

    with pytest.raises(InputError, match="which holds a pickle"):
        load_lpips(folder)


def test_weights_of_another_network_are_refused_with_how_to_write_the_right_ones(folder):
    shutil.copy(folder / "lpips" / "alex.safetensors", folder / "lpips" / "vgg.safetensors")

    with pytest.raises(InputError, match=r"has other ones: .* Write those of LPIPS .*vgg16"):
        load_lpips(folder)


def test_the_command_writes_weights_that_load(folder, monkeypatch):
    path = folder / "lpips" / "alex.safetensors"
    path.unlink()
    alexnet = models.alexnet
    monkeypatch.setattr(models, "alexnet", lambda weights: alexnet())
    code = perceptual.command("alex").partition('"')[2].rpartition('"')[0]

    exec(code.replace("'alex.safetensors'", repr(str(path))), {})

    assert set(load_lpips(folder)) == {"lpips", "lpips_vgg"}


def test_without_the_weights_of_channels_the_installation_is_said_to_be_wrong(written, monkeypatch):
    monkeypatch.setattr(perceptual.importlib.util, "find_spec", lambda name: None)

    with pytest.raises(InfrastructureError, match=r"alex.pth.* Install leaktune again"):
        load_lpips(written)
