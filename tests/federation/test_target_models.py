import pytest
import torch
from torch import nn
from torchvision.transforms import Normalize

from engine.attacks.matching.matcher import Matcher
from engine.errors import PlanError, UnsupportedModelError
from engine.federation import Head, compute_update, find_head, make_target_model
from engine.federation.target_models import TARGET_MODELS
from tests.conftest import TinyNet, build, seeded


@pytest.mark.parametrize("image_shape", [(1, 28, 28), (3, 32, 32), (1, 13, 9)])
def test_lenet_takes_images_of_any_size(image_shape):
    model = make_target_model("lenet", image_shape=image_shape, classes=7, seed=0)

    assert model(torch.rand(2, *image_shape)).shape == (2, 7)
    assert not model.training


@pytest.mark.slow
@pytest.mark.parametrize("image_shape", [(1, 28, 28), (3, 8, 8), (1, 64, 64), (3, 64, 64)])
def test_resnet18_takes_small_and_large_images(image_shape):
    model = make_target_model("resnet18", image_shape=image_shape, classes=7, seed=0)

    assert model(torch.rand(2, *image_shape)).shape == (2, 7)
    assert find_head(model, image_shape) == Head("fc", 512, has_bias=True)
    assert model.conv1.kernel_size == ((3, 3) if image_shape[1] < 64 else (7, 7))


def test_trained_weights_of_imagenet_meet_images_as_they_were_trained_on():
    settings = {"image_shape": (3, 32, 32), "classes": 5, "seed": 0}
    plain, normalised = (
        make_target_model(name, **settings) for name in ("resnet18", "resnet18_imagenet")
    )
    images, labels = torch.rand(2, 3, 32, 32, generator=seeded(0)), torch.tensor([0, 3])
    as_trained = Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])(images)

    assert normalised.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(normalised(images), plain(as_trained))
    matcher = Matcher(normalised, (3, 32, 32))
    expected = compute_update(plain, as_trained, labels).tensors
    assert str(matcher) == "kernels"
    for name, tensor in matcher.updates(images, labels).tensors.items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-5, rtol=1e-4)


def test_grey_images_have_no_such_normalisation():
    with pytest.raises(UnsupportedModelError, match=r"colour images .* got \(1, 8, 8\)"):
        make_target_model("resnet18_imagenet", image_shape=(1, 8, 8), classes=2, seed=0)


def test_equal_seeds_give_equal_weights_and_leave_the_global_state_alone():
    torch.manual_seed(5)
    state = torch.get_rng_state()

    first, second, other = (
        make_target_model("lenet", image_shape=(1, 8, 8), classes=3, seed=seed).state_dict()
        for seed in (0, 0, 1)
    )

    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])


def test_an_unknown_model_is_refused_with_the_nearest_name():
    with pytest.raises(PlanError, match="Did you mean 'lenet'"):
        make_target_model("lenett", image_shape=(1, 8, 8), classes=3, seed=0)
    assert TARGET_MODELS.names() == ("lenet", "resnet18", "resnet18_imagenet")


def test_the_head_is_the_last_linear_layer_run_whatever_its_name(model):
    assert find_head(model, (1, 12, 12)) == Head("readout", 18, has_bias=True)
    assert find_head(model, (1, 12, 12)).weight == "readout.weight"
    assert find_head(model, (1, 12, 12)).bias == "readout.bias"


def test_the_head_is_found_by_running_and_not_by_order_of_definition():
    class Reversed(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = nn.Linear(5, 2, bias=False)
            self.first = nn.Linear(9, 5)

        def forward(self, images):
            return self.last(self.first(images.flatten(1)))

    assert find_head(Reversed().eval(), (1, 3, 3)) == Head("last", 5, has_bias=False)


def test_a_model_without_a_linear_layer_is_refused():
    with pytest.raises(UnsupportedModelError, match="ends in a linear layer"):
        find_head(nn.Sequential(nn.Conv2d(1, 2, 3)).eval(), (1, 8, 8))


def test_the_representation_is_the_input_of_the_head(model, head, images):
    torch.testing.assert_close(head.represent(model, images), model.features(images))


def test_no_hook_stays_behind(images):
    model = build(TinyNet, 1)
    head = find_head(model, (1, 12, 12))

    head.represent(model, images)
    with pytest.raises(RuntimeError):
        head.represent(model, images[:, :, :5])

    assert not any(module._forward_pre_hooks for module in model.modules())
