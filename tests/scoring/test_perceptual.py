import pytest
import torch

from engine.errors import InputError
from engine.scoring import perceptual


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """Where LPIPS looks for its weights: an empty folder of the test's own."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    perceptual._network.cache_clear()
    path = perceptual.lpips_weights()
    path.parent.mkdir(parents=True)
    return path


def test_missing_weights_are_named_and_never_fetched(weights):
    with pytest.raises(InputError, match="found none"):
        perceptual.lpips(torch.rand(1, 1, 28, 28), torch.rand(1, 1, 28, 28))

    assert list(weights.parent.iterdir()) == []


def test_other_weights_are_refused_before_they_are_opened(weights):
    weights.write_bytes(b"\x80\x04 not what torchvision published")

    with pytest.raises(InputError, match="as torchvision published it"):
        perceptual.lpips(torch.rand(1, 1, 28, 28), torch.rand(1, 1, 28, 28))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torchvision's and torchmetrics' own, on import.
def test_equal_images_have_no_distance_and_others_have_some(weights, monkeypatch):
    from torchvision.models import alexnet

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(alexnet().state_dict(), weights)
    monkeypatch.setattr(perceptual, "SHA256_START", perceptual.file_sha256(weights)[:8])
    monkeypatch.setenv("TORCH_HOME", str(weights.parent.parent))
    images = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    truths = images.clone()
    truths[1] = 1 - truths[1]

    distances = perceptual.lpips(images, truths)

    assert distances.shape == (3,)
    assert distances[0] == distances[2] == 0
    assert distances[1] > 0.001
    perceptual._network.cache_clear()
