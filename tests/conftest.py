"""The small world most tests live in: 12 x 12 images, four classes, three latent coordinates."""

import os

import pytest
import torch
from hypothesis import settings
from torch import nn

from engine.attacks import ThreatKnowledge
from engine.federation import compute_update, find_head
from engine.generators import MlpGenerator

pytest.register_assert_rewrite("tests.contracts")

settings.register_profile(
    "leaktune", max_examples=40, deadline=None, database=None, derandomize=True
)
settings.load_profile("leaktune")

torch.set_num_threads(1)

# Read when Ray is imported, which some tests do before an audit would set it: under `uv run`, Ray
# would have every worker build an environment of its own.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
# A developer's own MLflow server is no place for the audits of tests.
os.environ.pop("MLFLOW_TRACKING_URI", None)

IMAGE_SHAPE = (1, 12, 12)
CLASSES = 4
LATENT_DIM = 3


def pytest_collection_modifyitems(items):
    """Has JUnit's file say which fault a test brings about, and how often."""
    for item in items:
        for mark in item.iter_markers("fault"):
            tries = mark.kwargs.get("tries", 1)
            item.user_properties += [("fault", mark.args[0]), ("tries", tries)]


class TinyNet(nn.Module):
    """A smooth convolutional model with positive features and a head that is not called fc."""

    def __init__(self, activation=nn.Softplus):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 3, 3, stride=2, padding=1),
            activation(),
            nn.Conv2d(3, 2, 3, stride=2, padding=1),
            activation(),
            nn.Flatten(),
        )
        self.readout = nn.Linear(18, CLASSES)

    def forward(self, images):
        return self.readout(self.features(images))


class TinyGenerator(nn.Module):
    """One linear layer behind a sigmoid; each class has an offset of its own."""

    latent_dim, classes, image_shape = LATENT_DIM, CLASSES, IMAGE_SHAPE

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(LATENT_DIM, 144), requires_grad=False)
        self.offsets = nn.Parameter(torch.randn(CLASSES, 144), requires_grad=False)

    def forward(self, latents, labels):
        images = torch.sigmoid(latents @ self.weight + self.offsets[labels])
        return images.view(-1, *IMAGE_SHAPE)


class MappedGenerator(TinyGenerator):
    """The tiny generator behind a mapping network of two coordinates."""

    latent_dim = 2

    def __init__(self):
        super().__init__()
        self.map = nn.Parameter(torch.randn(2, LATENT_DIM), requires_grad=False)

    def mapping(self, latents, labels):
        return nn.functional.leaky_relu(latents @ self.map, 0.2)

    def synthesise(self, mapped, labels):
        return TinyGenerator.forward(self, mapped, labels)

    def forward(self, latents, labels):
        return self.synthesise(self.mapping(latents, labels), labels)


class TinyMlp(MlpGenerator):
    """A generator that can be split; its weights make images of some contrast."""

    def __init__(self):
        super().__init__(latent_dim=LATENT_DIM, classes=CLASSES, image_shape=IMAGE_SHAPE, width=16)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.mul_(3)
        self.requires_grad_(False)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def build(factory, seed):
    """Builds a module with weights of its own seed, the global random state left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return factory().eval()


@pytest.fixture(scope="session")
def model():
    return build(TinyNet, 1)


@pytest.fixture(scope="session")
def head(model):
    return find_head(model, IMAGE_SHAPE)


@pytest.fixture(scope="session")
def generator():
    return build(TinyGenerator, 2)


@pytest.fixture(scope="session")
def images():
    return torch.rand(5, *IMAGE_SHAPE, generator=seeded(3))


@pytest.fixture(scope="session")
def labels():
    return torch.tensor([2, 0, 3, 3, 1])


@pytest.fixture
def update(model, images, labels):
    """The updates of five clients."""
    return compute_update(model, images, labels)


@pytest.fixture
def observed(model, images, labels):
    """The update of one client, undefended."""
    return compute_update(model, images[:1], labels[:1])


@pytest.fixture
def knowledge(model, head, generator):
    """What an attacker knows who expects no defense."""
    return ThreatKnowledge(
        model=model,
        head=head,
        classes=CLASSES,
        generate=generator,
        latent_dim=LATENT_DIM,
        defense_kinds=("none",),
    )
