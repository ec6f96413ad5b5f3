import torch

from engine.federation.training import accuracy, train_classifier
from tests.conftest import TinyNet, build, seeded

LABELS = torch.arange(48) % 2
IMAGES = torch.randint(0, 60, (48, 1, 12, 12), generator=seeded(0)).to(torch.uint8)
IMAGES[LABELS == 1, :, :6] += 190


def trained(seed=0):
    model = build(TinyNet, 1)
    train_classifier(
        model,
        IMAGES,
        LABELS,
        epochs=10,
        seed=seed,
        device=torch.device("cpu"),
        batch_size=16,
        learning_rate=0.02,
    )
    return model


def test_learns_to_tell_two_plain_classes():
    model = trained()

    assert accuracy(model, IMAGES, LABELS) == 1.0
    assert not model.training


def test_equal_seeds_train_equal_models_and_different_ones_do_not():
    first, second, other = (trained(seed).readout.weight for seed in (0, 0, 1))

    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_accuracy_is_the_share_of_right_answers():
    class Constant(TinyNet):
        def forward(self, images):
            assert images.max() <= 1
            return torch.tensor([0.0, 1.0, 0.0, 0.0]).expand(len(images), 4)

    labels = torch.tensor([1] * 12 + [0] * 36)

    assert accuracy(Constant(), IMAGES, labels) == 0.25


def test_calls_back_once_a_step():
    calls = []

    train_classifier(
        build(TinyNet, 1),
        IMAGES,
        LABELS,
        epochs=2,
        seed=0,
        device=torch.device("cpu"),
        batch_size=20,
        on_batch=lambda: calls.append(1),
    )

    assert len(calls) == 6
