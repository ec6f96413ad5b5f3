import pytest
import torch
from torch import nn

from engine.attacks.image_priors import batch_norm, image_norm, total_variation
from engine.federation import make_target_model
from tests.conftest import build, seeded


def images_of(candidates=3, images=2, shape=(3, 5, 4)):
    return torch.rand(candidates, images, *shape, generator=seeded(0))


def test_total_variation_is_the_mean_step_along_rows_and_columns():
    images = images_of()

    for place, found in enumerate(total_variation(images, nn.Identity())):
        rows = [
            abs(float(image[c, y, x + 1] - image[c, y, x]))
            for image in images[place]
            for c in range(3)
            for y in range(5)
            for x in range(3)
        ]
        columns = [
            abs(float(image[c, y + 1, x] - image[c, y, x]))
            for image in images[place]
            for c in range(3)
            for y in range(4)
            for x in range(4)
        ]
        expected = sum(rows) / len(rows) + sum(columns) / len(columns)
        assert float(found) == pytest.approx(expected, rel=1e-5)


def test_the_norm_is_of_pixels_from_minus_one_to_one():
    images = torch.tensor([0.5, 1.0, 0.0, 0.75]).view(4, 1, 1, 1, 1)

    assert image_norm(images, nn.Identity()).tolist() == [0.0, 0.5, 0.5, 0.125]


class TwoNorms(nn.Module):
    """Two BatchNorms with statistics, the second of twice what the first gives."""

    def __init__(self, tracked=1):
        super().__init__()
        self.first, self.second = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
        for layer in (self.first, self.second):
            layer.running_mean.copy_(torch.tensor([0.2, 0.4]))
            layer.running_var.copy_(torch.tensor([0.1, 0.3]))
            layer.num_batches_tracked.fill_(tracked)

    def forward(self, images):
        return self.second(2 * self.first(images)).flatten(1)


def test_the_batch_norm_prior_compares_each_input_with_what_is_stored():
    model = build(TwoNorms, 0).eval().requires_grad_(False)
    images = images_of(shape=(2, 3, 3))

    found = batch_norm(images, model)

    for place, some in enumerate(images):
        total = 0.0
        for factor, layer, inputs in (
            (10.0, model.first, some),
            (1.0, model.second, 2 * model.first(some)),
        ):
            mean = torch.stack([inputs[:, c].mean() for c in range(2)])
            variance = torch.stack([inputs[:, c].var(correction=0) for c in range(2)])
            total += factor * float((mean - layer.running_mean).norm())
            total += factor * float((variance - layer.running_var).norm())
        assert float(found[place]) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize(
    "model",
    [
        build(lambda: TwoNorms(tracked=0), 0).eval(),
        make_target_model("lenet", image_shape=(2, 8, 8), classes=3, seed=0),
        make_target_model("resnet18", image_shape=(2, 8, 8), classes=3, seed=0),
    ],
    ids=["never trained", "no such layer", "initial weights"],
)
def test_a_model_that_has_seen_no_batch_says_nothing(model):
    assert batch_norm(images_of(shape=(2, 8, 8)), model).tolist() == [0.0, 0.0, 0.0]
