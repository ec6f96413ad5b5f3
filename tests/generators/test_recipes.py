import pytest

from engine.errors import PlanError
from engine.generators.recipes import RECIPES, suited_training
from engine.generators.training import GeneratorTraining


def test_grey_images_as_small_as_fashion_mnist_are_trained_as_its_generator_was():
    assert suited_training((1, 28, 28)) == GeneratorTraining()


@pytest.mark.parametrize("shape", [(3, 28, 28), (1, 32, 32), (3, 128, 128)])
def test_colour_and_detail_get_convolutions_and_averaged_weights(shape):
    settings = suited_training(shape)

    assert settings.recipe == "vae-gan"
    assert (settings.architecture, settings.partners) == ("upsampling", "convolutional")
    assert settings.ema > 0


def test_the_critics_weight_grows_with_the_number_of_values():
    small, large = (suited_training((3, side, side)).adversarial_weight for side in (32, 64))

    assert (small, large) == (300.0, 1200.0)


def test_the_papers_recipe_has_the_papers_settings():
    settings = suited_training((3, 32, 32), recipe="wgan-gp")

    assert (settings.penalty, settings.critic_steps, settings.learning_rate) == (10.0, 5, 1e-4)
    assert settings.architecture == "deconvolutional"


def test_what_is_chosen_is_kept_and_none_is_no_choice():
    settings = suited_training((3, 32, 32), epochs=3, width=None, ema=0.0)

    assert (settings.epochs, settings.width, settings.ema) == (3, 256, 0.0)


def test_unknown_recipes_are_refused():
    assert RECIPES.names() == ("vae-gan", "wgan-gp")
    with pytest.raises(PlanError, match=r"Unknown training recipe 'wgan'.*Did you mean 'wgan-gp'"):
        suited_training((3, 32, 32), recipe="wgan")
