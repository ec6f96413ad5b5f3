import warnings

import pytest
import torch

from search_spaces import make_space
from search_spaces.latent_spaces import LabelledSpace
from search_spaces.native import to_ax, to_nevergrad, to_optuna, to_point, to_suggestion, to_tune
from tests.conftest import seeded

LATENTS = make_space("gaussian", latent_dim=3, images=2)


def drawn(view, count):
    draw = torch.randn if view == "normal" else torch.rand
    return draw(count, LATENTS.dim + 1, generator=seeded(0), dtype=torch.float64)


@pytest.mark.parametrize("view", ["normal", "unit"])
@pytest.mark.parametrize("choices", [1, 2, 5])
def test_the_last_coordinate_chooses_each_hypothesis_equally_often(view, choices):
    points = drawn(view, 5000)

    latents = LabelledSpace(LATENTS, choices).to_latents(points, view)

    assert torch.equal(latents[:, :-1], LATENTS.to_latents(points[:, :-1], view))
    chosen = latents[:, -1].long().bincount(minlength=choices) / len(points)
    assert len(chosen) == choices
    torch.testing.assert_close(chosen, torch.full((choices,), 1 / choices), atol=0.02, rtol=0)


@pytest.mark.parametrize("view", ["normal", "unit"])
def test_a_hypothesis_lies_at_its_coordinate(view):
    space = LabelledSpace(LATENTS, 4)
    points = drawn(view, 4)
    points[:, -1] = torch.tensor([space.coordinate(choice, view) for choice in range(4)])

    assert space.to_latents(points, view)[:, -1].tolist() == [0, 1, 2, 3]


def test_the_faces_of_the_cube_choose_too():
    space = LabelledSpace(LATENTS, 3)
    corners = torch.tensor([[0.0], [1.0]], dtype=torch.float64).expand(2, space.dim)

    assert space.to_latents(corners, "unit")[:, -1].tolist() == [0, 2]


def test_libraries_see_the_choice_as_categorical():
    space = LabelledSpace(LATENTS, 3)

    assert to_optuna(space)["labels"].choices == (0, 1, 2)
    assert list(to_tune(space)["labels"].categories) == [0, 1, 2]
    assert list(to_nevergrad(space)["labels"].choices.value) == [0, 1, 2]
    assert len(to_optuna(space)) == len(to_tune(space)) == space.dim == 7


def test_ax_sees_the_choice_as_without_order():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ax's own imports.
        parameters = to_ax(LabelledSpace(LATENTS, 3))

    assert len(parameters) == 7
    assert (parameters[-1].name, parameters[-1].values) == ("labels", [0, 1, 2])
    assert not parameters[-1].is_ordered


@pytest.mark.parametrize("choice", [0, 1, 2])
def test_a_choice_survives_the_way_there_and_back(choice):
    space = LabelledSpace(LATENTS, 3)
    suggestion = {**{f"z{place}": 0.25 for place in range(6)}, "labels": choice}

    point = to_point(space, suggestion)

    assert to_suggestion(space, point) == suggestion
    latent = space.to_latents(torch.from_numpy(point)[None], "unit")
    assert int(latent[0, -1]) == choice


@pytest.mark.parametrize("choice", [-1, 3, 0.5])
def test_a_choice_of_no_hypothesis_is_refused(choice):
    suggestion = {**{f"z{place}": 0.25 for place in range(6)}, "labels": choice}

    with pytest.raises(ValueError, match="Expected labels to be a whole number below 3"):
        to_point(LabelledSpace(LATENTS, 3), suggestion)
