import torch

from engine.federation.training import _augmented, accuracy, train_classifier
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


def test_augmented_images_are_mirrored_and_shifted_with_their_edges_repeated():
    columns = torch.arange(16.0).expand(1, 16, 16)
    images = (columns + 100 * columns.mT).repeat(200, 1, 1, 1)

    augmented = _augmented(images, seeded(0))

    assert augmented.shape == images.shape
    seen = set()
    for image in augmented[:, 0]:
        steps = image[8, 1:] - image[8, :-1]
        mirrored = bool(steps.sum() < 0)
        row = (image.flip(1) if mirrored else image)[8]
        shift = round(float(row[8] % 100)) - 8
        expected = (torch.arange(16) + shift).clamp(0, 15)
        assert torch.equal(row % 100, expected.float())
        seen.add((mirrored, shift))
    assert seen == {(mirrored, shift) for mirrored in (False, True) for shift in range(-2, 3)}


def test_learns_in_mixed_precision_from_augmented_images():
    model = build(TinyNet, 1)
    images, labels = IMAGES.clone(), LABELS
    train_classifier(
        model,
        images,
        labels,
        epochs=10,
        seed=0,
        device=torch.device("cpu"),
        batch_size=16,
        learning_rate=0.02,
        augmented=True,
        mixed_precision=True,
    )

    assert accuracy(model, IMAGES, LABELS) == 1.0
    assert torch.equal(images, IMAGES)
    assert next(model.parameters()).dtype == torch.float32
