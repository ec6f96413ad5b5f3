import torch

from engine.federation import Update

UPDATE = Update(
    {
        "weight": torch.tensor([[[3.0, 0.0], [0.0, 4.0]], [[0.0, 0.0], [0.0, 1.0]]]),
        "bias": torch.tensor([[12.0], [0.0]]),
    }
)


def test_length_is_the_number_of_clients():
    assert len(UPDATE) == 2


def test_norms_are_taken_per_client_and_tensor():
    assert UPDATE.squared_norms().tolist() == [[25.0, 144.0], [1.0, 0.0]]


def test_the_norm_of_a_client_is_over_all_parameters_together():
    assert UPDATE.l2_norms().tolist() == [13.0, 1.0]


def test_parameters_are_those_of_one_client():
    assert UPDATE.parameters() == 5


def test_replace_keeps_the_order_and_the_original():
    replaced = UPDATE.replace(weight=torch.zeros(2, 2, 2))

    assert list(replaced.tensors) == ["weight", "bias"]
    assert replaced.tensors["weight"].sum() == 0
    assert UPDATE.tensors["weight"].sum() == 8


def test_map_returns_a_new_update():
    doubled = UPDATE.map(lambda tensor: 2 * tensor)

    assert doubled.tensors["bias"].tolist() == [[24.0], [0.0]]
    assert UPDATE.tensors["bias"].tolist() == [[12.0], [0.0]]
