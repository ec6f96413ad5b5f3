import torch

from engine.scoring.identification import pixels, truth_rank
from tests.conftest import seeded


def images_at(*values):
    """One-pixel images of the given values."""
    return torch.tensor(values).view(-1, 1, 1, 1)


def rank(images, truth, distractors):
    return truth_rank(images, truth, distractors, extract=pixels).tolist()


def test_the_rank_counts_the_distractors_that_are_nearer():
    distractors = images_at(0.4, 0.6, 0.1, 0.95)

    ranks = rank(images_at(0.22, 0.35, 0.5, 1.0), images_at(0.2), distractors)

    assert ranks == [1, 2, 3, 4]


def test_a_perfect_reconstruction_has_rank_one():
    assert rank(images_at(0.2), images_at(0.2), images_at(0.3, 0.1)) == [1]


def test_ties_count_against_the_attacker():
    assert rank(images_at(0.5), images_at(0.25), images_at(0.75, 0.75, 0.0)) == [3]


def test_a_distractor_equal_to_the_truth_ties_with_it():
    assert rank(images_at(0.2), images_at(0.2), images_at(0.2, 0.9)) == [2]


def test_without_distractors_the_rank_is_one():
    assert rank(images_at(0.9), images_at(0.2), images_at()) == [1]


def test_a_reconstruction_that_is_not_a_number_identifies_nothing():
    assert rank(images_at(float("nan")), images_at(0.2), images_at(0.3, 0.1)) == [3]


def test_a_blind_guess_has_every_rank_equally_often():
    images = torch.rand(4000, 1, 1, 2, generator=seeded(0))
    distractors = torch.rand(4000, 1, 1, 1, 2, generator=seeded(1))
    truths = torch.rand(4000, 1, 1, 1, 2, generator=seeded(2))

    ranks = [
        rank(image[None], truth, distractor)[0]
        for image, truth, distractor in zip(images, truths, distractors, strict=True)
    ]

    assert abs(ranks.count(1) / 4000 - 0.5) < 0.04


def test_distances_are_taken_in_the_given_features():
    distractors = images_at(0.9)

    ranks = truth_rank(
        images_at(0.5), images_at(0.2), distractors, extract=lambda x: x.flatten(1).square()
    )

    assert ranks.tolist() == [1]  # 0.25 - 0.04 < 0.81 - 0.25, though 0.3 < 0.4 as well.


def test_many_pixels_are_compared_by_euclidean_distance():
    images = torch.zeros(1, 1, 1, 2)
    truth, distractor = torch.tensor([[[[0.5, 0.5]]]]), torch.tensor([[[[0.8, 0.0]]]])

    # By the sum of absolute differences the distractor would be nearer.
    assert rank(images, truth, distractor) == [1]
