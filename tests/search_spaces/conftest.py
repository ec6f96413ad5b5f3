import pytest
import torch
from torch import nn

from search_spaces import Source
from search_spaces.latent_spaces.pixels import Pixels
from tests.conftest import build, seeded


class Stretched:
    """A linear generator of 16 pixels whose images change most along known directions."""

    def __init__(self, scales, seed=0):
        drawn = torch.randn(len(scales), len(scales), generator=seeded(seed))
        self.directions = torch.linalg.qr(drawn).Q  # In columns.
        pixels = torch.linalg.qr(torch.randn(16, len(scales), generator=seeded(seed + 1))).Q
        self.weight = self.directions @ torch.diag(torch.tensor(scales)) @ pixels.T
        self.asked = 0

    def __call__(self, latents, labels):
        self.asked += len(latents)
        # Class 1 changes with the coordinates in reverse order.
        turned = torch.where(labels[:, None] == 1, latents.flip(1), latents)
        return (turned @ self.weight).view(-1, 1, 4, 4)


class TinyMapped(nn.Module):
    """StyleGAN's shape: four latent coordinates to three mapped ones, those to 2 x 2 pixels."""

    latent_dim, classes, image_shape = 4, 2, (1, 2, 2)

    def __init__(self):
        super().__init__()
        self.map, self.paint = nn.Linear(4, 3), nn.Linear(3, 4)

    def mapping(self, latents, labels):
        return nn.functional.leaky_relu(self.map(latents), 0.2) + labels[:, None]

    def synthesise(self, mapped, labels):
        return self.paint(mapped).sigmoid().view(-1, 1, 2, 2)

    def forward(self, latents, labels):
        return self.synthesise(self.mapping(latents, labels), labels)


class Wide:
    """Any number of latent coordinates, mapped to as many."""

    def __init__(self, latent_dim):
        self.latent_dim = latent_dim

    def mapping(self, latents, labels):
        return 2 * latents + 1

    def synthesise(self, mapped, labels):
        return (mapped[:, :1] * torch.linspace(0, 1, 4)).view(-1, 1, 2, 2)

    def __call__(self, latents, labels):
        return self.synthesise(self.mapping(latents, labels), labels)


class Bent:
    """Features of which six follow the latent and two its squares; they are its pixels."""

    stages = 1

    def __init__(self, latent_dim=2):
        self.latent_dim = latent_dim
        axes = torch.linalg.qr(torch.randn(8, 8, generator=seeded(0))).Q
        self.linear = torch.randn(latent_dim, 6, generator=seeded(1)) @ axes[:6]
        self.squares = axes[6:]
        self.bends = torch.tensor([[3.0], [1.0]]) * self.squares
        self.asked = {"features": 0, "images": 0}

    def to_features(self, latents, labels, stage):
        self.asked["features"] += len(latents)
        squared = (latents[:, :2].square() - 1) / 2**0.5
        return latents @ self.linear + squared @ self.bends[: self.latent_dim]

    def from_features(self, features, labels, stage):
        self.asked["images"] += len(features)
        return features.view(-1, 1, 2, 4)

    def __call__(self, latents, labels):
        return self.from_features(self.to_features(latents, labels, 1), labels, 1)


@pytest.fixture(scope="session")
def tiny_mapped():
    return build(TinyMapped, 5).requires_grad_(False)


def settings_for(name, latent_dim):
    """Returns settings that a space of a latent dimension may be made with."""
    if name == "features":
        return {"stage": 1, "directions": 1}
    subspaces = ("principal", "random_embedding")
    return {"directions": max(1, latent_dim // 2)} if name in subspaces else {}


def arguments_for(name, latent_dim, images=1):
    """Returns everything ``make_space`` needs for a space."""
    generators = {
        "features": lambda: Bent(latent_dim - 1),
        "pixels": lambda: Pixels((1, 1, latent_dim)),
    }
    generator = generators.get(name, lambda: Wide(latent_dim))()
    source = Source(generator, labels=(0,) * images)
    settings = settings_for(name, latent_dim)
    return {"latent_dim": latent_dim, "images": images, "source": source, **settings}
