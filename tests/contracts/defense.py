"""What every defense promises. Subclass, name it with settings, and the tests run."""

import inspect
from typing import ClassVar

import pytest
import torch

from engine.defenses import DEFENSES, ClientContext
from engine.defenses.base import SCALING
from engine.federation import Update, compute_update
from tests.conftest import seeded


class DefenseContract:
    name: ClassVar[str]
    settings: ClassVar[dict] = {}

    def make(self):
        return DEFENSES.make(self.name, **self.settings)

    def defend(self, update, model, head, images, labels, *, seed=0):
        client = ClientContext(model, head, images, labels)
        return self.make()(update, client=client, rng=seeded(seed))

    def test_input_is_not_modified(self, update, model, head, images, labels):
        before = {name: tensor.clone() for name, tensor in update.tensors.items()}

        self.defend(update, model, head, images, labels)

        for name, tensor in before.items():
            torch.testing.assert_close(update.tensors[name], tensor, rtol=0, atol=0)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_names_shapes_and_dtypes_are_kept(self, dtype, update, model, head, images, labels):
        update = update.map(lambda tensor: tensor.to(dtype))

        defended = self.defend(update, model, head, images, labels)

        assert list(defended.tensors) == list(update.tensors)
        for name, tensor in update.tensors.items():
            assert defended.tensors[name].shape == tensor.shape
            assert defended.tensors[name].dtype == dtype
            assert not defended.tensors[name].requires_grad

    def test_whether_it_scales_updates_is_known(self, observed, model, head, images, labels):
        update = self.defend(observed, model, head, images[:1], labels[:1])

        form = DEFENSES.get(self.name).estimate(update, head=head).masked_scaling()

        assert (form is not None and form.scale is not None) == (self.name in SCALING)

    def test_equal_seeds_agree(self, update, model, head, images, labels):
        first = self.defend(update, model, head, images, labels, seed=5)
        second = self.defend(update, model, head, images, labels, seed=5)

        for name, tensor in first.tensors.items():
            assert torch.equal(tensor, second.tensors[name])

    def test_the_global_random_state_is_neither_read_nor_moved(
        self, update, model, head, images, labels
    ):
        torch.manual_seed(1)
        state = torch.get_rng_state()
        first = self.defend(update, model, head, images, labels)
        moved = not torch.equal(torch.get_rng_state(), state)
        torch.manual_seed(2)
        second = self.defend(update, model, head, images, labels)

        assert not moved
        for name, tensor in first.tensors.items():
            assert torch.equal(tensor, second.tensors[name])

    def test_a_client_is_defended_by_itself_alone(self, update, model, head, images, labels):
        together = self.defend(update, model, head, images, labels)

        for row in range(len(update)):
            one = slice(row, row + 1)
            alone = self.defend(
                update.map(lambda tensor, one=one: tensor[one]),
                model,
                head,
                images[one],
                labels[one],
            )
            for name, tensor in alone.tensors.items():
                torch.testing.assert_close(tensor, together.tensors[name][one])

    def test_clients_may_hold_several_images(self, model, head, images, labels):
        images, labels = images[:4], labels[:4]
        update = compute_update(model, images, labels, images_per_client=2)

        defended = self.defend(update, model, head, images, labels)

        for name, tensor in update.tensors.items():
            assert defended.tensors[name].shape == tensor.shape
            assert defended.tensors[name].isfinite().all()

    def test_gradients_that_are_all_zero_stay_finite(self, update, model, head, images, labels):
        zeros = update.map(torch.zeros_like)

        defended = self.defend(zeros, model, head, images, labels)

        for tensor in defended.tensors.values():
            assert tensor.isfinite().all()

    def test_estimate_takes_what_the_server_knows_and_nothing_else(self):
        estimate = inspect.getattr_static(DEFENSES.get(self.name), "estimate")

        assert isinstance(estimate, staticmethod)
        names = inspect.signature(estimate.__func__).parameters
        assert set(names) == {"observed", "head", "noise_std", "published_code"}

    @pytest.mark.parametrize("published_code", [False, True])
    def test_the_imitation_keeps_form_and_input_and_is_deterministic(
        self, published_code, update, model, head, images, labels
    ):
        defended = self.defend(update, model, head, images, labels)
        observed = defended.map(lambda tensor: tensor[:1])
        before = {name: tensor.clone() for name, tensor in update.tensors.items()}

        imitation = self.make().estimate(observed, head=head, published_code=published_code)
        first, second = imitation(update), imitation(update)

        assert imitation.noise_std >= 0
        assert str(imitation)
        assert list(first.tensors) == list(update.tensors)
        for name, tensor in first.tensors.items():
            assert tensor.shape == update.tensors[name].shape
            assert torch.equal(tensor, second.tensors[name])
            assert torch.equal(update.tensors[name], before[name])

    @pytest.mark.parametrize("published_code", [False, True])
    def test_the_estimate_leaves_the_observed_update_alone(
        self, published_code, model, head, images, labels
    ):
        client_update = compute_update(model, images[:1], labels[:1])
        observed = self.defend(client_update, model, head, images[:1], labels[:1])
        before = Update({name: tensor.clone() for name, tensor in observed.tensors.items()})

        self.make().estimate(observed, head=head, published_code=published_code)

        for name, tensor in before.tensors.items():
            assert torch.equal(observed.tensors[name], tensor)
