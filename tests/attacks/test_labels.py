import copy
import dataclasses
import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

from engine.attacks import ThreatKnowledge
from engine.attacks.labels import (
    LABEL_INFERENCES,
    infer_by_bias,
    infer_by_row_sum,
    plausible_labels,
)
from engine.errors import UnsupportedModelError
from engine.federation import Head, Update, compute_update, find_head
from engine.federation.client import LocalTraining
from tests.conftest import CLASSES, seeded

HEAD = Head("out", 2, has_bias=True)


def knowing(images=1, steps=1, head=HEAD):
    """Knowledge of nothing but the head, and of how many images took how many steps."""
    return ThreatKnowledge(
        model=None,
        head=head,
        classes=3,
        generate=None,
        latent_dim=1,
        defense_kinds=(),
        training=LocalTraining(steps),
        images_per_client=images,
    )


def of_biases(*entries):
    return Update({"out.bias": torch.tensor([entries])})


def of_row_sums(*sums):
    """An update whose rows have these sums, of entries that say something else."""
    return Update({"out.weight": torch.tensor([[[2 * value + 7, -value - 7] for value in sums]])})


@pytest.mark.parametrize("rule", sorted(LABEL_INFERENCES))
@pytest.mark.parametrize("label", range(CLASSES))
def test_every_class_is_inferred_from_an_undefended_update(rule, label, model, knowledge, images):
    for image in images:
        observed = compute_update(model, image[None], torch.tensor([label]))

        assert LABEL_INFERENCES[rule].infer(observed, knowledge) == (label,)


def test_the_row_sum_rule_takes_the_smallest_sum():
    observed = Update(
        {
            "out.weight": torch.tensor([[[-5.0, 6.0], [-1.0, -1.0], [3.0, -4.0]]]),
            "out.bias": torch.tensor([[-9.0, 0.0, 0.0]]),
        }
    )

    assert infer_by_row_sum(observed, knowing()) == (1,)


def test_the_row_sum_rule_takes_the_smallest_sum_even_where_none_is_negative():
    assert infer_by_row_sum(of_row_sums(3.0, 1.0, 2.0), knowing()) == (1,)


def test_the_bias_rule_takes_the_smallest_entry():
    observed = Update(
        {
            "out.weight": torch.tensor([[[-9.0, -9.0], [0.0, 0.0], [0.0, 0.0]]]),
            "out.bias": torch.tensor([[0.2, 0.3, -0.5]]),
        }
    )

    assert infer_by_bias(observed, knowing()) == (2,)


def test_for_one_image_both_rules_take_the_smallest():
    rng = np.random.default_rng(0)
    for _ in range(200):
        rows = rng.normal(rng.normal(), 1, (3, 2)).astype(np.float32)
        biases = rng.normal(size=3).astype(np.float32)
        observed = Update(
            {"out.weight": torch.from_numpy(rows[None]), "out.bias": torch.from_numpy(biases[None])}
        )

        assert infer_by_bias(observed, knowing()) == (int(biases.argmin()),)
        assert infer_by_row_sum(observed, knowing()) == (int(rows.sum(1).argmin()),)


@pytest.mark.parametrize(
    ("entries", "images", "steps", "labels"),
    [
        ((-0.45, 0.1, 0.35), 2, 1, (0, 0)),  # 0.05 is left of class 0 after one image of it.
        ((-0.30, -0.05, 0.35), 2, 1, (0, 1)),
        ((0.35, -0.02, -0.33), 3, 1, (1, 2, 2)),
        ((-1.4, -0.2, 1.6), 2, 4, (0, 1)),  # Four steps of two images: 2 for each image.
        ((-1.4, -0.2, 1.6), 2, 2, (0, 0)),
    ],
)
def test_the_bias_rule_adds_what_one_image_took(entries, images, steps, labels):
    assert infer_by_bias(of_biases(*entries), knowing(images, steps)) == labels


@pytest.mark.parametrize(
    ("sums", "images", "labels"),
    [
        ((-8.0, -0.5, 5.0), 2, (0, 1)),  # A negative sum is a class of its own.
        ((-8.0, -0.5, 5.0), 1, (0,)),
        # Impact 8.5 / 4 * 4/3: after one each, -5.2 and 2.3; then -2.3 and 2.3; then 0.5.
        ((-8.0, -0.5, 5.0), 4, (0, 0, 0, 1)),
        # Impact 6/3 * 4/3: after two images -0.7 of class 0 is left.
        ((-6.0, 5.0, 0.5), 3, (0, 0, 0)),
        # Impact 6/5 * 4/3: after four images 0.4 of class 0 is left.
        ((-6.0, 5.0, 0.2), 5, (0, 0, 0, 0, 2)),
        # Impact 4/5 * 4/3: after one image each -0.9, after two each 0.13.
        ((-2.0, -2.0, 0.1), 5, (0, 0, 1, 1, 2)),
        ((-8.0, 3.0, 0.1), 2, (0, 0)),  # Impact 16/3: -2.7 is left.
        ((-8.0, 3.0, -6.0), 3, (0, 0, 2)),  # Impact 56/9: -1.8 and 0.2 are left.
    ],
)
def test_the_row_sum_rule_takes_every_negative_class_once_and_then_the_smallest(
    sums, images, labels
):
    assert infer_by_row_sum(of_row_sums(*sums), knowing(images)) == labels


def constructed(counts, *, spread, rng):
    """An update as theory has it: rows and entries of the mean of (p - y), features of one size.

    Predictions are nearly uniform, as an untrained model's are.
    """
    images = sum(counts)
    biases = np.full(len(counts), 1 / len(counts)) + rng.uniform(-spread, spread, len(counts))
    biases -= np.array(counts) / images
    weights = biases[:, None] * np.array([[2.0, 3.0]])
    return Update(
        {
            "out.weight": torch.from_numpy(weights[None]).float(),
            "out.bias": torch.from_numpy(biases[None]).float(),
        }
    )


@pytest.mark.parametrize("counts", [(4, 0, 0), (2, 1, 1), (0, 3, 1), (8, 4, 4), (0, 1, 7)])
def test_the_bias_rule_restores_any_counts_where_predictions_are_uniform(counts):
    rng = np.random.default_rng(1)
    images = sum(counts)

    for _ in range(20):
        observed = constructed(counts, spread=0.2 / images, rng=rng)

        found = infer_by_bias(observed, knowing(images))

        assert [found.count(label) for label in range(3)] == list(counts)
        assert list(found) == sorted(found)


@pytest.mark.parametrize("rule", sorted(LABEL_INFERENCES))
@pytest.mark.parametrize("training", [LocalTraining(), LocalTraining(5, 0.05)])
def test_most_labels_of_simulated_clients_are_found(rule, training, model, knowledge):
    rng = seeded(8)
    knowledge = dataclasses.replace(knowledge, training=training, images_per_client=4)
    found = 0
    for _ in range(50):
        images = torch.rand(4, 1, 12, 12, generator=rng)
        labels = torch.randint(0, CLASSES, (4,), generator=rng)
        observed = compute_update(model, images, labels, images_per_client=4, training=training)

        inferred = LABEL_INFERENCES[rule].infer(observed, knowledge)

        assert len(inferred) == 4
        found += (Counter(inferred) & Counter(labels.tolist())).total()
    assert found >= {"bias": 195, "row_sum": 160}[rule]


@pytest.mark.parametrize("scale", [1.0, 0.3, 0.01])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("counts", [(4, 0, 0), (2, 2, 0), (0, 2, 2)])
def test_the_bias_rule_restores_counts_of_a_clipped_update(counts, steps, scale):
    kinds = ("clipping",)
    entries = [scale * steps * (1 / 3 - count / 4) for count in counts]
    knowledge = dataclasses.replace(knowing(4, steps), defense_kinds=kinds)

    found = infer_by_bias(of_biases(*entries), knowledge)

    assert [found.count(label) for label in range(3)] == list(counts)


def test_inferring_leaves_the_update_as_it_is():
    observed = constructed((2, 1, 1), spread=0.1, rng=np.random.default_rng(0))
    before = {name: tensor.clone() for name, tensor in observed.tensors.items()}

    for rule in LABEL_INFERENCES.values():
        rule.infer(observed, knowing(4))

    for name, tensor in before.items():
        assert torch.equal(observed.tensors[name], tensor)


def test_the_bias_rule_needs_a_bias(images):
    model = nn.Sequential(nn.Flatten(), nn.Linear(144, 4, bias=False)).eval()
    head = find_head(model, (1, 12, 12))
    observed = compute_update(model, images[:1], torch.tensor([3]))

    with pytest.raises(UnsupportedModelError, match="Use label_inference: row_sum"):
        infer_by_bias(observed, knowing(head=head))
    assert infer_by_row_sum(observed, knowing(head=head)) == (3,)


class Uniform(nn.Module):
    """A model that has no preference, whatever the image, so that its predictions do not differ."""

    def __init__(self, classes):
        super().__init__()
        self.head = nn.Linear(1, classes)
        nn.init.zeros_(self.head.weight)

    def forward(self, images):
        return self.head(images.flatten(1)[:, :1])


def guessing(images=1, classes=5):
    """Knowledge of a model without preference, and of a generator of noise."""
    return dataclasses.replace(
        knowing(images),
        model=Uniform(classes).eval().requires_grad_(False),
        classes=classes,
        generate=lambda latents, labels: latents[:, None, None, :1],
    )


def doubt(entries, labels, noise_std):
    """How implausible labels are: the squares that are left of the entries without the images."""
    counts = np.bincount(labels, minlength=len(entries))
    left = np.array(entries) + counts / len(labels)
    return (left**2).sum() / (2 * noise_std**2)


def test_only_the_inferred_labels_are_searched_where_they_are_certain():
    observed = of_biases(-0.8, 0.2, 0.2, 0.2, 0.2)

    found = plausible_labels("bias", observed, guessing(), noise_std=0.05, most=5)

    assert found == ((0,),)


def test_noise_makes_others_plausible_in_the_order_of_the_entries():
    observed = of_biases(0.2, -0.1, 0.3, 0.05, 0.2)

    found = plausible_labels("bias", observed, guessing(), noise_std=1.0, most=3)

    assert found == ((1,), (3,), (0,))


@pytest.mark.parametrize("images", [2, 3, 4])
@pytest.mark.parametrize("noise_std", [0.1, 0.3])
def test_hypotheses_are_the_most_plausible_of_all(images, noise_std):
    rng = np.random.default_rng(images)
    for _ in range(10):
        entries = (rng.normal(0, noise_std, 5) + 0.2).astype(np.float32)
        for label in rng.integers(0, 5, images):
            entries[label] -= 1 / images
        everything = itertools.combinations_with_replacement(range(5), images)
        doubts = {labels: doubt(entries, labels, noise_std) for labels in everything}
        best = sorted(doubts, key=doubts.get)
        expected = [one for one in best[:6] if doubts[one] - doubts[best[0]] <= np.log(100)]

        found = plausible_labels(
            "bias", of_biases(*entries.tolist()), guessing(images), noise_std=noise_std, most=6
        )

        assert [tuple(sorted(one)) for one in found] == expected
        for one, other in itertools.pairwise(found[:2]):
            assert sum(a != b for a, b in zip(one, other, strict=True)) == 1


def test_sums_of_noisy_entries_are_less_certain_than_single_ones():
    observed = Update(
        {
            "out.weight": torch.tensor([[[-0.4] * 4, [0.1] * 4, [0.0] * 4]]),
            "out.bias": torch.tensor([[-1.6, 0.4, 0.0]]),
        }
    )
    knowledge = guessing(classes=3)

    by_bias = plausible_labels("bias", observed, knowledge, noise_std=0.5, most=3)
    by_rows = plausible_labels("row_sum", observed, knowledge, noise_std=0.5, most=3)

    assert by_bias == ((0,),)
    assert by_rows == ((0,), (2,), (1,))


def test_predictions_that_differ_make_the_counts_of_a_batch_uncertain():
    """Of two images, a tenth of an image's worth of either class might be the model's opinion."""
    observed, steady = of_biases(-0.6, -0.4, 0.5, 0.5), guessing(images=2, classes=4)
    model = copy.deepcopy(steady.model)
    model.head.weight[:2, 0] = torch.tensor([50.0, -50.0])
    swayed = dataclasses.replace(steady, model=model)

    found = [
        plausible_labels("bias", observed, knowledge, noise_std=0.0, most=3)
        for knowledge in (steady, swayed)
    ]

    assert found[0] == ((0, 1),)
    assert found[1] == ((0, 1), (0, 0))


def test_no_more_hypotheses_are_named_than_there_are_classes():
    observed = of_biases(0.1, 0.0)

    found = plausible_labels("bias", observed, guessing(classes=2), noise_std=9.0, most=7)

    assert found == ((1,), (0,))
