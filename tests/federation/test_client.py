import pytest
import torch
from torch import nn

from engine.errors import InputError, UnsupportedModelError
from engine.federation import compute_update, make_target_model
from tests.conftest import TinyNet, build, seeded


def one_backward_pass_at_a_time(model, images, labels):
    """The slow oracle: names to stacked gradients of one image at a time, by plain autograd."""
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rows = []
    for image, label in zip(images, labels, strict=True):
        log_probabilities = model(image[None])[0].log_softmax(0)
        rows.append(torch.autograd.grad(-log_probabilities[label], trainable))
    columns = [torch.stack(column) for column in zip(*rows, strict=True)]
    return dict(zip(names, columns, strict=True))


def assert_equals_the_oracle(update, expected, **tolerances):
    assert list(update.tensors) == list(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(update.tensors[name], tensor, **tolerances)


@pytest.mark.parametrize("chunk_size", [None, 1, 2, 3, 4, 5, 7])
def test_batched_updates_equal_one_backward_pass_at_a_time(chunk_size, images, labels):
    model = make_target_model("lenet", image_shape=(1, 12, 12), classes=4, seed=0).double()
    expected = one_backward_pass_at_a_time(model, images.double(), labels)

    update = compute_update(model, images.double(), labels, chunk_size=chunk_size)

    assert_equals_the_oracle(update, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.slow
@pytest.mark.parametrize("chunk_size", [None, 2])
def test_updates_of_resnet18_equal_one_backward_pass_at_a_time(chunk_size):
    model = make_target_model("resnet18", image_shape=(3, 8, 8), classes=5, seed=0).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(generator=seeded(1))
            module.running_var.uniform_(0.5, 2, generator=seeded(2))
    images, labels = torch.rand(3, 3, 8, 8, generator=seeded(0)).double(), torch.tensor([4, 0, 2])
    statistics = {name: buffer.clone() for name, buffer in model.named_buffers()}

    update = compute_update(model, images, labels, chunk_size=chunk_size)

    expected = one_backward_pass_at_a_time(model, images, labels)
    assert_equals_the_oracle(update, expected, rtol=1e-9, atol=1e-12)
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, statistics[name])


def test_float32_updates_are_near_those_in_float64(model, images, labels):
    update = compute_update(model, images, labels)

    assert all(tensor.dtype == torch.float32 for tensor in update.tensors.values())
    precise = build(TinyNet, 1).double()
    expected = one_backward_pass_at_a_time(precise, images.double(), labels)
    assert_equals_the_oracle(
        update.map(lambda tensor: tensor.double()), expected, rtol=1e-4, atol=1e-6
    )


def test_only_parameters_that_require_a_gradient_are_shared(images, labels):
    model = build(TinyNet, 1)
    model.features.requires_grad_(False)

    update = compute_update(model, images, labels)

    assert list(update.tensors) == ["readout.weight", "readout.bias"]


def test_updates_are_detached_and_leave_the_model_alone(images, labels):
    model = build(TinyNet, 1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    update = compute_update(model, images.clone().requires_grad_(True), labels)

    assert not any(tensor.requires_grad for tensor in update.tensors.values())
    assert all(parameter.grad is None for parameter in model.parameters())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_updates_are_those_of_the_evaluation_mode_under_dropout(images, labels):
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(144, 4)).eval()

    first = compute_update(model, images, labels)
    second = compute_update(model, images, labels)

    assert torch.equal(first.tensors["2.weight"], second.tensors["2.weight"])


def test_refuses_a_model_in_training_mode(images, labels):
    with pytest.raises(UnsupportedModelError, match="evaluation mode, got one in training mode"):
        compute_update(build(TinyNet, 1).train(), images, labels)


def test_refuses_a_model_with_nothing_to_train(images, labels):
    with pytest.raises(UnsupportedModelError, match="trainable parameters"):
        compute_update(build(TinyNet, 1).requires_grad_(False), images, labels)


def test_refuses_unbatched_images(model, images, labels):
    with pytest.raises(InputError, match=r"images of shape \(C, ch, H, W\), got \(1, 12, 12\)"):
        compute_update(model, images[0], labels[:1])


def test_refuses_unbatched_labels(model, images, labels):
    with pytest.raises(InputError, match=r"labels of shape \(C\), got \(\)"):
        compute_update(model, images[:1], labels[0])


class Shared(nn.Module):
    """One layer under two names, and one weight in two layers."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.again = self.first
        self.tied = nn.Linear(4, 4, bias=False)
        self.tied.weight = self.first.weight

    def forward(self, images):
        return self.tied(self.again(self.first(images.flatten(1)).sin()).cos())


@pytest.mark.parametrize("clients", [1, 3])
def test_shared_layers_and_weights_have_their_summed_gradient_and_stay_as_they_are(clients):
    model = build(Shared, 0)
    weights = [(p, p.clone()) for p in model.parameters()]
    images, labels = torch.rand(clients, 1, 2, 2, generator=seeded(1)), torch.arange(clients)

    update = compute_update(model, images, labels)

    for place in range(clients):
        loss = nn.functional.cross_entropy(model(images[place, None]), labels[place, None])
        expected = torch.autograd.grad(loss, list(model.parameters()))
        for tensor, gradient in zip(update.tensors.values(), expected, strict=True):
            torch.testing.assert_close(tensor[place], gradient)
    for p, (before, values) in zip(model.parameters(), weights, strict=True):
        assert p is before
        assert torch.equal(p, values)
