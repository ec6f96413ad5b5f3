"""What every generator architecture promises. Subclass, name it, and the tests run."""

from typing import ClassVar

import pytest
import torch

from engine.generators import GENERATORS
from tests.conftest import build, seeded


class GeneratorContract:
    name: ClassVar[str]
    image_shape: ClassVar[tuple[int, int, int]] = (1, 8, 8)

    def make(self, seed=0):
        settings = {
            "latent_dim": 3,
            "classes": 4,
            "image_shape": self.image_shape,
            "width": 8,
        }
        return build(lambda: GENERATORS.make(self.name, **settings), seed)

    def latents(self, candidates):
        return torch.randn(candidates, 3, generator=seeded(candidates))

    @pytest.mark.parametrize("candidates", [1, 2, 7])
    def test_images_have_the_promised_shape_and_range(self, candidates):
        generator = self.make()
        labels = torch.arange(candidates) % 4

        images = generator(50 * self.latents(candidates), labels)

        assert images.shape == (candidates, *self.image_shape)
        assert images.dtype == torch.float32
        assert images.min() >= 0
        assert images.max() <= 1

    def test_says_its_latents_classes_and_images(self):
        generator = self.make()

        assert generator.latent_dim == 3
        assert generator.classes == 4
        assert generator.image_shape == self.image_shape

    def test_equal_latents_give_equal_images_alone_or_in_a_batch(self):
        generator, latents, labels = self.make(), self.latents(6), torch.tensor([0, 1, 2, 3, 0, 1])

        batch = generator(latents, labels)

        assert torch.equal(batch, generator(latents, labels))
        for row in range(6):
            alone = generator(latents[row, None], labels[row, None])
            torch.testing.assert_close(alone[0], batch[row])

    def test_latents_and_labels_both_matter(self):
        generator = self.make()
        latents, labels = self.latents(2), torch.tensor([1, 1])

        images = generator(latents, labels)
        others = generator(latents, torch.tensor([2, 2]))

        assert not torch.allclose(images[0], images[1], atol=1e-5)
        assert not torch.allclose(images, others, atol=1e-5)

    def test_inputs_are_not_modified(self):
        latents, labels = self.latents(3), torch.tensor([0, 1, 2])
        before = latents.clone()

        self.make()(latents, labels)

        assert torch.equal(latents, before)
        assert labels.tolist() == [0, 1, 2]

    def test_is_differentiable_in_its_latents(self):
        latents = self.latents(2).requires_grad_(True)

        self.make()(latents, torch.tensor([0, 3])).sum().backward()

        assert (latents.grad.abs().sum(1) > 0).all()

    def test_generating_decodes_the_codes_of_the_class(self):
        generator, latents, labels = self.make(), self.latents(3), torch.tensor([0, 1, 1])
        generator.prior.mean[1] = 2.0

        decoded = generator.decode(latents + torch.tensor([[0.0], [2.0], [2.0]]), labels)

        torch.testing.assert_close(generator(latents, labels), decoded)
