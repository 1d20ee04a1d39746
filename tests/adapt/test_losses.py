import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pdamlib.adapt.losses import (
    SOURCE,
    TARGET,
    TERM_WEIGHT,
    adversarial_weight,
    domain_loss,
    entropy_map,
    total_loss,
)


def logits_of(p_source: list[float]) -> torch.Tensor:
    p = torch.tensor(p_source)
    return torch.stack([(1 - p).log(), p.log()], dim=1)


def test_domain_loss_is_the_mean_of_minus_log_of_the_right_probability():
    logits = logits_of([0.25, 0.5])
    assert domain_loss(logits, SOURCE).item() == pytest.approx((math.log(4) + math.log(2)) / 2)
    assert domain_loss(logits, TARGET).item() == pytest.approx((-math.log(0.75) + math.log(2)) / 2)


def test_domain_loss_counts_every_position_of_a_map():
    row = logits_of([0.25, 0.5, 0.9, 0.1])
    grid = row.T.reshape(1, 2, 2, 2)
    assert domain_loss(grid, SOURCE).item() == pytest.approx(domain_loss(row, SOURCE).item())


def test_domain_loss_without_rows_is_zero_and_differentiable():
    empty = torch.zeros(0, 2, requires_grad=True)
    loss = domain_loss(empty, TARGET)
    loss.backward()
    assert loss.item() == 0
    assert empty.grad.shape == (0, 2)


def test_entropy_map_literally():
    logits = torch.tensor([0.25, 0.75]).log().view(1, 2, 1, 1)
    expected = torch.tensor([0.25 * math.log(4), -0.75 * math.log(0.75)]).view(1, 2, 1, 1)
    assert torch.allclose(entropy_map(logits), expected)
    assert torch.allclose(entropy_map(logits, normalised=True), expected / math.log(2))


def test_normalised_entropy_of_a_coin_is_half_a_bit_a_channel():
    assert torch.allclose(entropy_map(torch.zeros(1, 2, 3, 3), normalised=True), torch.full((1, 2, 3, 3), 0.5))


def test_entropy_and_its_gradient_stay_finite_for_certain_predictions():
    logits = torch.tensor([500.0, -500.0]).view(1, 2, 1, 1).requires_grad_()
    entropy = entropy_map(logits)
    entropy.sum().backward()
    assert torch.equal(entropy, torch.zeros(1, 2, 1, 1))
    assert torch.isfinite(logits.grad).all()


@given(st.lists(st.floats(-30, 30), min_size=2, max_size=5))
def test_entropy_lies_between_zero_and_one_over_e_a_channel_and_log_c_in_sum(values):
    entropy = entropy_map(torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1))
    assert entropy.min() >= 0
    assert entropy.max() <= 1 / math.e + 1e-12
    assert entropy.sum() <= math.log(len(values)) + 1e-12


def test_adversarial_weight_literally():
    assert adversarial_weight(0) == 0
    assert adversarial_weight(0.1) == pytest.approx((1 - math.exp(-1)) / (1 + math.exp(-1)))
    assert adversarial_weight(1) == pytest.approx(0.9999092, abs=1e-7)


def test_total_loss_weights_each_term_as_in_eq_4():
    losses = {name: torch.tensor(10.0**i, dtype=torch.float64) for i, name in enumerate(TERM_WEIGHT)}
    weights = {"img": torch.tensor(2.0), "ins": 3.0, "sem": 5.0, "da": 7.0}
    # rpn_objectness, rpn_box | det_class, det_box, det_mask | sem_seg | img_da, sem_da, ins_da
    expected = 2 * 11 + 3 * 11_100 + 5 * 100_000 + 7 * 111_000_000
    assert total_loss(losses, weights).item() == expected


def test_total_loss_of_a_method_without_adaptation_is_the_plain_sum():
    losses = {"rpn_box": torch.tensor(1.0), "det_mask": torch.tensor(2.0)}
    assert total_loss(losses, {}).item() == 3


def test_total_loss_refuses_a_term_that_eq_4_does_not_have():
    with pytest.raises(KeyError, match="rpn_bax"):
        total_loss({"rpn_bax": torch.tensor(1.0)}, {})
