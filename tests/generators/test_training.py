import copy
import dataclasses

import pytest
import torch

from engine.errors import InputError, PlanError
from engine.generators import training_state
from engine.generators.partners import Critic, Encoder
from engine.generators.recipes import RECIPES
from engine.generators.training import GeneratorTraining
from tests.conftest import build, seeded

CPU = torch.device("cpu")
SETTINGS = GeneratorTraining(
    latent_dim=2, width=8, epochs=3, adversarial_after=1, batch_size=16, seed=4
)


def trainer_of(settings=SETTINGS, images=None):
    if images is None:
        images = (torch.rand(64, 1, 8, 8, generator=seeded(0)) * 255).to(torch.uint8)
    labels = torch.arange(len(images)) % 2
    return RECIPES.get(settings.recipe)(images, labels, settings, CPU)


def run(trainer, epochs):
    return [trainer.run_epoch(lambda: None) for _ in range(epochs)]


def tensors_of(trainer):
    parts = {"generator": trainer.generator, "encoder": trainer.encoder, "critic": trainer.critic}
    return {
        f"{part}/{name}": tensor.clone()
        for part, module in parts.items()
        for name, tensor in module.state_dict().items()
    }


def assert_equal_tensors(first, second):
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


@pytest.fixture(scope="module")
def uninterrupted():
    trainer = trainer_of()
    return run(trainer, 3), tensors_of(trainer)


def test_reports_the_figures_of_every_epoch(uninterrupted):
    figures, _ = uninterrupted

    assert [figure.epoch for figure in figures] == [1, 2, 3]
    assert all(0 < figure.values["squared error"] < 1 for figure in figures)
    assert all(figure.values["divergence"] >= 0 for figure in figures)


def test_the_critic_joins_after_its_epochs(uninterrupted):
    figures, _ = uninterrupted

    assert [figure.values["critic"] > 0 for figure in figures] == [False, True, True]


def test_a_step_follows_the_stated_losses():
    settings = dataclasses.replace(SETTINGS, beta=0.7, adversarial_weight=3.0)
    trainer = trainer_of(settings)
    trainer.epoch = 1
    images, labels = trainer.images / 255, trainer.labels
    generator, encoder, critic = (
        copy.deepcopy(module) for module in (trainer.generator, trainer.encoder, trainer.critic)
    )

    figures = trainer.step(images, labels, seeded(9))

    rng = seeded(9)
    noise, latents = (torch.randn(64, 2, generator=rng) for _ in range(2))
    mean, log_variance = encoder(images, labels)
    posterior = torch.distributions.Normal(mean, log_variance.exp().sqrt())
    divergence = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0))
    codes = torch.cat([mean + posterior.scale * noise, latents])
    decoded, drawn = generator.decode(codes, labels.repeat(2)).split(64)
    squared_error = ((decoded - images) ** 2).mean()
    loss = 32 * squared_error.log() + 0.7 * divergence.sum(1).mean()
    loss = loss - 3.0 * critic(drawn, labels).mean()
    parts = [*generator.parameters(), *encoder.parameters()]
    slopes = torch.autograd.grad(loss, parts)
    trained = [*trainer.generator.parameters(), *trainer.encoder.parameters()]
    for parameter, slope in zip(trained, slopes, strict=True):
        torch.testing.assert_close(parameter.grad, slope, rtol=1e-3, atol=1e-4)

    real, fake = critic(torch.cat([images, drawn.detach()]), labels.repeat(2)).split(64)
    hinge = torch.clamp(1 - real, min=0).mean() + torch.clamp(1 + fake, min=0).mean()
    slopes = torch.autograd.grad(hinge, list(critic.parameters()))
    for parameter, slope in zip(trainer.critic.parameters(), slopes, strict=True):
        torch.testing.assert_close(parameter.grad, slope, rtol=1e-3, atol=1e-5)

    expected = torch.stack([squared_error, divergence.sum(1).mean(), hinge])
    torch.testing.assert_close(figures, expected)


def test_every_epoch_draws_an_order_of_its_own(monkeypatch):
    trainer, seen = trainer_of(), []

    def step(images, labels, rng):
        seen.append(images)
        return torch.zeros(3)

    monkeypatch.setattr(trainer, "step", step)
    run(trainer, 2)

    first, second = torch.cat(seen[:4]), torch.cat(seen[4:])
    assert not torch.equal(first, second)
    torch.testing.assert_close(
        first.flatten(1).sum(1).sort().values, second.flatten(1).sum(1).sort().values
    )


def test_calls_back_once_a_batch():
    calls = []

    trainer_of(dataclasses.replace(SETTINGS, batch_size=24)).run_epoch(lambda: calls.append(1))

    assert len(calls) == 3


@pytest.mark.parametrize("architecture", ["mlp", "deconvolutional"])
def test_reconstructions_of_two_plain_classes_become_better(architecture):
    images = torch.zeros(64, 1, 8, 8, dtype=torch.uint8)
    images[1::2, :, :4] = 255
    settings = dataclasses.replace(
        SETTINGS,
        architecture=architecture,
        epochs=8,
        adversarial_after=8,
        batch_size=8,
        learning_rate=1e-2,
    )

    figures = run(trainer_of(settings, images), 8)

    assert figures[-1].values["squared error"] < 0.5 * figures[0].values["squared error"]


def test_equal_settings_train_equal_generators(uninterrupted):
    torch.manual_seed(99)
    again = trainer_of()

    assert run(again, 3) == uninterrupted[0]
    assert_equal_tensors(tensors_of(again), uninterrupted[1])


def test_another_seed_trains_another_generator(uninterrupted):
    other = trainer_of(dataclasses.replace(SETTINGS, seed=5))
    run(other, 3)

    weight = "generator/layers.0.weight"
    assert not torch.equal(tensors_of(other)[weight], uninterrupted[1][weight])


def test_training_leaves_the_global_random_state_alone():
    torch.manual_seed(1)
    state = torch.get_rng_state()

    run(trainer_of(), 2)

    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("before", [1, 2, 3])
def test_a_resumed_training_equals_an_uninterrupted_one(before, tmp_path, uninterrupted):
    interrupted = trainer_of()
    run(interrupted, before)
    interrupted.save(tmp_path)

    resumed = trainer_of()
    resumed.resume(tmp_path)
    figures = run(resumed, 3 - before)

    assert resumed.epoch == 3
    assert figures == uninterrupted[0][before:]
    assert_equal_tensors(tensors_of(resumed), uninterrupted[1])


def test_the_state_holds_no_pickle(tmp_path):
    trainer = trainer_of()
    run(trainer, 1)

    trainer.save(tmp_path / "new" / "folder")

    names = sorted(path.name for path in (tmp_path / "new" / "folder").iterdir())
    assert names == ["training.safetensors"]


@pytest.mark.parametrize(
    "change", [{"seed": 5}, {"epochs": 4}, {"learning_rate": 2e-3}, {"latent_dim": 3}]
)
def test_resuming_with_other_settings_is_refused(change, tmp_path):
    trainer_of().save(tmp_path)

    with pytest.raises(InputError, match="Expected a training with the same settings"):
        trainer_of(dataclasses.replace(SETTINGS, **change)).resume(tmp_path)


def test_resuming_from_nothing_is_refused(tmp_path):
    with pytest.raises(InputError, match="found none"):
        trainer_of().resume(tmp_path)


def test_resuming_from_a_truncated_state_is_refused(tmp_path):
    trainer_of().save(tmp_path)
    path = tmp_path / "training.safetensors"
    path.write_bytes(path.read_bytes()[:-10])

    with pytest.raises(InputError, match="damaged"):
        trainer_of().resume(tmp_path)


def test_resuming_from_the_state_of_other_images_is_refused(tmp_path):
    trainer_of(images=torch.zeros(64, 1, 4, 4, dtype=torch.uint8)).save(tmp_path)

    with pytest.raises(InputError):
        trainer_of().resume(tmp_path)


def test_a_save_cut_short_still_resumes_to_the_same_end(tmp_path, monkeypatch, uninterrupted):
    trainer = trainer_of()
    run(trainer, 1)
    trainer.save(tmp_path)
    run(trainer, 1)

    def cut_short(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(training_state.os, "replace", cut_short)
    with pytest.raises(KeyboardInterrupt):
        trainer.save(tmp_path)
    monkeypatch.undo()

    resumed = trainer_of()
    resumed.resume(tmp_path)
    run(resumed, 3 - resumed.epoch)

    assert_equal_tensors(tensors_of(resumed), uninterrupted[1])


def test_the_prior_is_fitted_to_the_codes_of_each_class():
    trainer = trainer_of()
    run(trainer, 1)

    encoder = trainer.encoder.eval()
    with torch.no_grad():
        means, log_variances = encoder(trainer.images / 255, trainer.labels)
    for label in (0, 1):
        rows = trainer.labels == label
        spread = torch.cov(means[rows].T) + log_variances[rows].exp().mean(0).diag()
        scale = trainer.generator.prior.scale[label]
        torch.testing.assert_close(trainer.generator.prior.mean[label], means[rows].mean(0))
        torch.testing.assert_close(scale @ scale.T, spread)


def test_a_last_batch_of_one_image_is_no_obstacle():
    images = torch.randint(0, 256, (65, 1, 8, 8), generator=seeded(0)).to(torch.uint8)

    figures = run(trainer_of(images=images), 2)

    assert all(0 < figure.values["squared error"] < 1 for figure in figures)


def test_the_learning_rate_decays_by_a_cosine_to_a_hundredth():
    trainer = trainer_of(dataclasses.replace(SETTINGS, epochs=10, learning_rate=1.0))

    for epoch, rate in [(0, 1.0), (5, 0.505), (10, 0.01)]:
        trainer._set_learning_rate(epoch)

        assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(rate)


def test_the_encoder_gives_a_mean_and_a_log_variance():
    encoder = build(lambda: Encoder((1, 4, 4), 2, 3), 0)

    mean, log_variance = encoder(torch.rand(5, 1, 4, 4), torch.tensor([0, 1, 0, 1, 1]))

    assert mean.shape == log_variance.shape == (5, 3)


def test_the_critic_scores_images_by_their_class():
    critic = build(lambda: Critic((1, 6, 9), 2), 0)
    images = torch.rand(3, 1, 6, 9, generator=seeded(0))

    first, second = critic(images, torch.tensor([0, 0, 0])), critic(images, torch.tensor([1, 1, 1]))

    assert first.shape == (3,)
    assert not torch.allclose(first, second)


CONVOLUTIONAL = dataclasses.replace(SETTINGS, architecture="upsampling", partners="convolutional")


def test_convolutional_partners_reconstruct_better_from_epoch_to_epoch():
    figures = run(trainer_of(CONVOLUTIONAL), 3)

    assert figures[-1].values["squared error"] < figures[0].values["squared error"]
    assert figures[-1].values["critic"] > 0


def test_the_generators_step_leaves_no_slopes_with_the_critic():
    trainer = trainer_of(dataclasses.replace(CONVOLUTIONAL, adversarial_after=0))
    trainer._step_critic = lambda *_: torch.zeros(())

    trainer.step(trainer.images / 255, trainer.labels, seeded(0))

    assert all(parameter.grad is None for parameter in trainer.critic.parameters())
    assert all(parameter.requires_grad for parameter in trainer.critic.parameters())


def test_the_average_of_the_weights_follows_them_by_its_decay():
    trainer = trainer_of(dataclasses.replace(SETTINGS, ema=0.75, batch_size=64))
    weight = trainer.generator.layers[0].weight
    before = weight.detach().clone()

    run(trainer, 1)

    expected = 0.75 * before + 0.25 * weight
    torch.testing.assert_close(trainer.averaged.layers[0].weight, expected)
    for name in ("running_mean", "running_var"):
        kept, new = (getattr(g.layers[1], name) for g in (trainer.averaged, trainer.generator))
        assert torch.equal(kept, new)
    assert torch.equal(trainer.averaged.prior.mean, trainer.generator.prior.mean)


def test_without_an_average_the_generator_itself_is_kept():
    trainer = trainer_of()

    assert trainer.averaged is trainer.generator
    assert "averaged" not in trainer._all_parts()


@pytest.mark.parametrize(
    "change",
    [
        {"ema": 0.9},
        {"precision": "bfloat16"},
        {"flips": True},
        {"conditional": False},
        {"partners": "convolutional"},
    ],
)
def test_with_any_setting_a_resumed_training_equals_an_uninterrupted_one(change, tmp_path):
    settings = dataclasses.replace(CONVOLUTIONAL, epochs=2, **change)
    whole, interrupted, resumed = (trainer_of(settings) for _ in range(3))
    figures = run(whole, 2)
    run(interrupted, 1)
    interrupted.save(tmp_path)

    resumed.resume(tmp_path)

    assert run(resumed, 1) == figures[1:]
    assert_equal_tensors(tensors_of(resumed), tensors_of(whole))
    assert torch.equal(resumed.averaged.prior.scale, whole.averaged.prior.scale)


def test_mixed_precision_trains_single_precision_weights():
    trainer = trainer_of(dataclasses.replace(CONVOLUTIONAL, precision="bfloat16"))
    run(trainer, 2)

    floating = [t for t in tensors_of(trainer).values() if t.is_floating_point()]
    assert all(tensor.dtype == torch.float32 for tensor in floating)
    assert (
        trainer.images[:4]
        .to(memory_format=trainer.layout())
        .is_contiguous(memory_format=torch.channels_last)
    )


def test_half_of_the_images_are_mirrored():
    images = torch.zeros(400, 1, 8, 8, dtype=torch.uint8)
    images[:, :, :, 0] = 255
    trainer = trainer_of(dataclasses.replace(SETTINGS, flips=True), images)

    batch = trainer._images(torch.arange(400), seeded(0))

    left = batch[:, 0, 0, 0] == 1
    assert torch.equal(batch[:, 0, 0, 7] == 1, ~left)
    assert 150 < left.sum() < 250


def test_without_condition_all_images_are_of_one_class():
    trainer = trainer_of(dataclasses.replace(SETTINGS, conditional=False))
    run(trainer, 2)

    assert trainer.generator.classes == 2
    assert trainer.generator.prior.mean.shape == (1, 2)
    latents = torch.randn(2, 2, generator=seeded(0))
    images = trainer.generator.eval()(latents[[0, 0]], torch.tensor([0, 1]))
    assert torch.equal(images[0], images[1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ema": 1.0}, "Expected ema between"),
        ({"partners": "big"}, "Expected partners to be one of: small, convolutional"),
        ({"precision": "float16"}, "Expected precision to be one of: float32, bfloat16"),
        ({"critic_steps": 0}, "Expected critic_steps"),
        ({"recipe": "gan"}, "Unknown training recipe"),
        ({"latent_dim": 0}, "Expected latent_dim to be a whole number"),
        ({"epochs": 1.5}, "Expected epochs to be a whole number"),
        ({"learning_rate": 0}, "Expected learning_rate > 0"),
        ({"beta": -1}, "Expected beta > 0"),
        ({"architecture": "mpl"}, "Unknown generator architecture 'mpl'.*Did you mean 'mlp'"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(PlanError, match=message):
        GeneratorTraining(**settings)
