import dataclasses

import pytest
import torch

from engine.attacks import AttackSettings, prepare_objective, run_attack
from engine.attacks.matching import FEWEST
from engine.attacks.spaces import check_space_settings, entered, space_of
from engine.errors import PlanError
from engine.federation import compute_update
from engine.generators.precision import in_precision
from search_spaces.latent_spaces.features import FeatureSynthesis
from search_spaces.latent_spaces.mapped import Synthesis
from search_spaces.latent_spaces.sensitivity import PROBES, sensitive_directions
from tests.conftest import LATENT_DIM, MappedGenerator, TinyGenerator, TinyMlp, build

CPU = torch.device("cpu")
TWO = {"directions": 2}


class Counting(TinyGenerator):
    """Notes how many images of each class it is asked for."""

    def __init__(self):
        super().__init__()
        self.asked = [0, 0, 0, 0]

    def forward(self, latents, labels):
        for label in labels.tolist():
            self.asked[label] += 1
        return super().forward(latents, labels)


def test_names_of_spaces_and_settings_are_checked_without_a_generator():
    check_space_settings("box", {"half_width": 3})
    with pytest.raises(PlanError, match="Unknown setting 'half' of the space 'box'"):
        check_space_settings("box", {"half": 3})


def test_each_image_has_the_directions_of_the_class_attributed_to_it(knowledge, generator):
    space = space_of("principal", TWO, knowledge, labels=(0, 3), seed=0)

    for basis, label in zip(space.basis, (0, 3), strict=True):
        expected = sensitive_directions(generator, label, LATENT_DIM, CPU).directions
        assert torch.equal(basis, expected[:, :2])
    assert not torch.equal(space.basis[0], space.basis[1])


def test_directions_are_found_once_for_all_searches_of_a_process(model, knowledge):
    generator = build(Counting, 2)
    label = torch.tensor([2])
    update = compute_update(model, generator(torch.zeros(1, 3), label), label)
    attack = AttackSettings(space="principal", space_settings=TWO, label_hypotheses=1)
    before = generator.asked[2]

    for seed in (0, 1):
        known = dataclasses.replace(knowledge, generate=in_precision(generator, "float32"))
        objective = prepare_objective(update, known, attack)
        run_attack(objective, attack, budget=20, seed=seed)

    # Besides: a search's two generations, each filled up, its reconstruction, and the images whose
    # shape is looked at.
    probes = PROBES // (2 * LATENT_DIM) * 2 * LATENT_DIM
    assert generator.asked[2] - before == probes + 2 * (2 * FEWEST + 1 + 1)
    assert generator.asked[0] == generator.asked[1] == generator.asked[3] == 0


def test_random_directions_are_those_of_the_searchs_seed(model, knowledge, generator):
    label = torch.tensor([2])
    update = compute_update(model, generator(torch.ones(1, 3), label), label)
    attack = AttackSettings(space="random_embedding", space_settings={"directions": 1})
    objective = prepare_objective(update, knowledge, attack)

    first, same, other = (
        run_attack(objective, attack, budget=20, seed=seed).latent for seed in (0, 0, 1)
    )

    assert torch.equal(first, same)
    assert torch.linalg.matrix_rank(torch.cat([first, other])) == 2


def test_beyond_the_mapping_network_the_generator_is_the_synthesis(knowledge):
    generator = in_precision(build(MappedGenerator, 2), "float32")
    plain = dataclasses.replace(knowledge, generate=generator, latent_dim=2)

    known = entered("w", {}, plain)

    assert known.generate == Synthesis(generator)
    assert known.latent_dim == LATENT_DIM
    assert entered("shell", {}, plain) is plain
    assert space_of("w", {}, known, labels=(0, 1), seed=0).dim == 2 * LATENT_DIM


def test_a_generator_without_a_mapping_network_has_no_mapped_latents(knowledge):
    with pytest.raises(PlanError, match="Expected a generator with mapping and synthesise"):
        entered("w", {}, knowledge)


def test_with_its_features_moved_the_generator_takes_moves_beside_its_latents(knowledge):
    generator = in_precision(build(TinyMlp, 2), "float32")
    plain = dataclasses.replace(knowledge, generate=generator)

    known = entered("features", TWO, plain)

    assert known.generate == FeatureSynthesis(generator, stage=2, directions=2)
    assert known.latent_dim == LATENT_DIM + 2
    assert space_of("features", TWO, known, labels=(0, 1), seed=0).dim == 2 * (LATENT_DIM + 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stage": 3}, "Expected stage between 1 and 2, the stages the generator has, got stage=3"),
        ({"directions": 17}, "Expected directions between 1 and 16, the features of that stage"),
    ],
)
def test_a_stage_or_features_that_a_generator_does_not_have_are_refused(
    settings, message, knowledge
):
    split = dataclasses.replace(knowledge, generate=in_precision(build(TinyMlp, 2), "float32"))

    with pytest.raises(PlanError, match=message):
        entered("features", settings, split)


def test_a_generator_that_cannot_be_split_has_no_features(knowledge):
    with pytest.raises(PlanError, match="Expected a generator with to_features and from_features"):
        entered("features", {}, knowledge)
