import pytest
import torch
from torch import nn

from engine.attacks.labels import LABEL_INFERENCES, infer_by_bias, infer_by_row_sum
from engine.errors import UnsupportedModelError
from engine.federation import Head, Update, compute_update, find_head
from tests.conftest import CLASSES

HEAD = Head("out", 2, has_bias=True)


@pytest.mark.parametrize("rule", sorted(LABEL_INFERENCES))
@pytest.mark.parametrize("label", range(CLASSES))
def test_every_class_is_inferred_from_an_undefended_update(rule, label, model, head, images):
    for image in images:
        observed = compute_update(model, image[None], torch.tensor([label]))

        assert LABEL_INFERENCES[rule](observed, head) == label


def test_the_row_sum_rule_takes_the_smallest_sum():
    observed = Update(
        {
            "out.weight": torch.tensor([[[-5.0, 6.0], [-1.0, -1.0], [3.0, -4.0]]]),
            "out.bias": torch.tensor([[-9.0, 0.0, 0.0]]),
        }
    )

    assert infer_by_row_sum(observed, HEAD) == 1


def test_the_bias_rule_takes_the_smallest_entry():
    observed = Update(
        {
            "out.weight": torch.tensor([[[-9.0, -9.0], [0.0, 0.0], [0.0, 0.0]]]),
            "out.bias": torch.tensor([[0.2, 0.3, -0.5]]),
        }
    )

    assert infer_by_bias(observed, HEAD) == 2


def test_the_bias_rule_needs_a_bias(images):
    model = nn.Sequential(nn.Flatten(), nn.Linear(144, 4, bias=False)).eval()
    head = find_head(model, (1, 12, 12))
    observed = compute_update(model, images[:1], torch.tensor([3]))

    with pytest.raises(UnsupportedModelError, match="Use label_inference: row_sum"):
        infer_by_bias(observed, head)
    assert infer_by_row_sum(observed, head) == 3
