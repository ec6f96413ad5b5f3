import pytest
import torch

from engine.federation.private_images import PrivateImages
from engine.scoring.evaluation_classifier import EvaluationClassifier
from engine.scoring.reconstructions import score
from tests.conftest import CLASSES, IMAGE_SHAPE, build, seeded

CLASSIFIER = build(lambda: EvaluationClassifier(image_shape=IMAGE_SHAPE, classes=CLASSES), 4)


def client_with(labels):
    return PrivateImages(
        images=torch.rand(len(labels), *IMAGE_SHAPE, generator=seeded(1)),
        labels=torch.tensor(labels),
        distractor_images=torch.rand(14, *IMAGE_SHAPE, generator=seeded(2)),
        distractor_labels=torch.arange(14) % CLASSES,
    )


def scores_of(images, client, model, head):
    return score(images, client, model=model, head=head, classifier=CLASSIFIER)


@pytest.mark.parametrize("labels", [[2], [2, 0], [3, 3, 1]])
def test_hits_are_counted_by_pixels_and_by_features(labels, model, head):
    client = client_with(labels)
    images = torch.rand(40, len(labels), *IMAGE_SHAPE, generator=seeded(9))

    scores = scores_of(images, client, model, head)

    for suffix, extract in {"": lambda x: x.flatten(1), "_features": CLASSIFIER.features}.items():
        ranks = []
        for place, label in enumerate(labels):
            own = extract(client.images[[place]])[0]
            others = extract(client.distractor_images[client.distractor_labels == label])
            for row in extract(images[:, place]):
                nearer = [bool((row - other).norm() <= (row - own).norm()) for other in others]
                ranks.append(1 + sum(nearer))
        for k in (1, 5):
            expected = sum(rank <= k for rank in ranks) / len(ranks)
            assert scores.hits[f"top{k}{suffix}"] == pytest.approx(expected)


def test_metrics_are_means_over_images_and_reconstructions(model, head):
    client = client_with([2, 0, 1])
    images = torch.rand(4, 3, *IMAGE_SHAPE, generator=seeded(9))

    scores = scores_of(images, client, model, head)

    errors = [
        float((images[draw, place] - client.images[place]).square().mean())
        for draw in range(4)
        for place in range(3)
    ]
    assert scores.metrics["mse"] == pytest.approx(sum(errors) / 12)
    psnrs = [-10 * torch.tensor(error).log10() for error in errors]
    assert scores.metrics["psnr"] == pytest.approx(float(sum(psnrs) / 12))


def test_an_image_is_scored_by_the_private_one_in_its_place(model, head):
    client = client_with([2, 0])

    right = scores_of(client.images[None], client, model, head)
    wrong = scores_of(client.images.flip(0)[None], client, model, head)

    assert right.metrics["mse"] == 0
    assert right.hits == {"top1": 1, "top5": 1, "top1_features": 1, "top5_features": 1}
    assert wrong.metrics["mse"] > 0.1


def test_luck_is_never_understated_where_classes_differ_in_their_distractors(model, head):
    # 14 distractors: four of the classes 0 and 1, three of 2 and 3.
    assert scores_of(torch.zeros(1, 2, *IMAGE_SHAPE), client_with([0, 3]), model, head).among == 4
    assert scores_of(torch.zeros(1, 2, *IMAGE_SHAPE), client_with([0, 1]), model, head).among == 5


def test_scores_do_not_depend_on_how_many_images_are_scored_at_once(model, head, monkeypatch):
    client = client_with([2, 0, 1])
    images = torch.rand(5, 3, *IMAGE_SHAPE, generator=seeded(9))
    whole = scores_of(images, client, model, head)

    monkeypatch.setattr("engine.scoring.reconstructions.SCORED_AT_ONCE", 6)
    sliced = scores_of(images, client, model, head)

    assert sliced.hits == whole.hits
    assert sliced.metrics == pytest.approx(whole.metrics, rel=1e-5)
