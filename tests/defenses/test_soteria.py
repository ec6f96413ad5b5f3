import numpy as np
import pytest
import torch
from torch import nn

from engine.defenses import ClientContext, Soteria
from engine.defenses.soteria import sensitivity_ratios
from engine.errors import PlanError
from engine.federation import Update, compute_update, find_head
from tests.conftest import IMAGE_SHAPE, TinyNet, build

SIGNED, POSITIVE = nn.Tanh, nn.Softplus


def ratios_one_feature_at_a_time(model, images):
    """The slow oracle: one image and one backward pass per feature."""
    ratios = []
    for image in images:
        leaf = image[None].clone().requires_grad_(True)
        representation = model.features(leaf)[0]
        row = []
        for feature in representation:
            (slope,) = torch.autograd.grad(feature, leaf, retain_graph=True)
            length = float(slope.square().sum()) ** 0.5
            row.append(length / (float(feature.detach()) + 1e-10))
        ratios.append(row)
    return np.array(ratios)


def clients_of(activation, images, labels):
    model = build(lambda: TinyNet(activation), 1).double()
    client = ClientContext(model, find_head(model.float(), IMAGE_SHAPE), images.double(), labels)
    model.double()
    return client, compute_update(model, images.double(), labels)


@pytest.mark.parametrize("activation", [SIGNED, POSITIVE])
def test_ratios_equal_one_backward_pass_per_feature(activation, images, labels):
    client, _ = clients_of(activation, images, labels)

    expected = ratios_one_feature_at_a_time(client.model, client.images)

    ratios = sensitivity_ratios(client).detach().numpy()
    np.testing.assert_allclose(ratios, expected, rtol=1e-9)


@pytest.mark.parametrize("percent", [0, 10, 50, 80, 99])
@pytest.mark.parametrize("activation", [SIGNED, POSITIVE])
def test_the_columns_below_the_percentile_are_zeroed_and_nothing_else(
    activation, percent, images, labels
):
    client, update = clients_of(activation, images, labels)

    defended = Soteria(percent)(update, client=client, rng=None)

    ratios = ratios_one_feature_at_a_time(client.model, client.images)
    for row, mine in enumerate(ratios):
        pruned = np.abs(mine) < np.percentile(mine, percent)
        expected = update.tensors["readout.weight"][row].numpy().copy()
        expected[:, pruned] = 0
        np.testing.assert_array_equal(defended.tensors["readout.weight"][row].numpy(), expected)
    for name in set(update.tensors) - {"readout.weight"}:
        assert torch.equal(defended.tensors[name], update.tensors[name])


@pytest.mark.parametrize("percent", [10, 50, 80])
def test_a_client_with_several_images_has_one_mask_of_their_summed_ratios(percent, images, labels):
    images, labels = torch.cat([images, 1 - images[:1]]), torch.cat([labels, labels[:1]])
    client, _ = clients_of(POSITIVE, images, labels)
    update = compute_update(client.model, images.double(), labels, images_per_client=3)

    defended = Soteria(percent)(update, client=client, rng=None)

    ratios = ratios_one_feature_at_a_time(client.model, client.images)
    for row, mine in enumerate((ratios[0] + ratios[1] + ratios[2], ratios[3:].sum(0))):
        expected = update.tensors["readout.weight"][row].numpy().copy()
        expected[:, mine < np.percentile(mine, percent)] = 0
        np.testing.assert_array_equal(defended.tensors["readout.weight"][row].numpy(), expected)


def test_at_80_percent_a_fifth_of_the_features_stays(images, labels):
    client, update = clients_of(POSITIVE, images, labels)

    defended = Soteria(80)(update, client=client, rng=None)

    kept = (defended.tensors["readout.weight"] != 0).any(1).sum(1)
    assert kept.tolist() == [4] * 5  # 18 features: the four above position 13.6.


def test_the_mask_is_estimated_from_the_columns_that_are_zero(images, labels, head, update):
    client, client_update = clients_of(POSITIVE, images[:1], labels[:1])
    defended = Soteria(60)(client_update, client=client, rng=None)

    imitation = Soteria.estimate(defended, head=head, published_code=False)

    zero = [not column.any() for column in defended.tensors["readout.weight"][0].T]
    imitated = imitation(update)
    for column, is_zero in enumerate(zero):
        mine = imitated.tensors["readout.weight"][:, :, column]
        assert torch.equal(
            mine, update.tensors["readout.weight"][:, :, column] * (0.0 if is_zero else 1.0)
        )
    assert torch.equal(imitated.tensors["readout.bias"], update.tensors["readout.bias"])
    assert sum(zero) == 11
    assert "38.9% of the features kept" in str(imitation)


@pytest.mark.parametrize(
    ("published_code", "kept"), [(False, [1.0, 1.0, 0.0]), (True, [1.0, 0.0, 0.0])]
)
def test_the_published_code_looks_at_the_first_row_alone(published_code, kept, head):
    observed = Update({"readout.weight": torch.tensor([[[1.0, 0.0, 0.0], [2.0, -3.0, 0.0]]])})

    imitation = Soteria.estimate(observed, head=head, published_code=published_code)

    assert imitation.keep.tolist() == kept
    assert imitation.noise_std == 0


def test_nothing_else_of_the_clients_stays_behind(images, labels):
    client, update = clients_of(POSITIVE, images, labels)

    Soteria(50)(update, client=client, rng=None)

    assert not any(module._forward_pre_hooks for module in client.model.modules())
    assert all(parameter.grad is None for parameter in client.model.parameters())


@pytest.mark.parametrize("settings", [{"percent": 100}, {"percent": -1}])
def test_impossible_percentages_are_refused(settings):
    with pytest.raises(PlanError, match="Expected percent between"):
        Soteria(**settings)


def test_unknown_versions_are_refused():
    with pytest.raises(PlanError, match="Expected version to be one of: ggl; got 'paper'"):
        Soteria(percent=80, version="paper")
