import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pdamlib.adapt.reweight import task_weight, task_weight_released


def logits_of(*p_source: float) -> torch.Tensor:
    p = torch.tensor(p_source)
    return torch.stack([(1 - p).log(), p.log()], dim=1)


@pytest.mark.parametrize(
    ("p_source", "weight"),
    [(0.5, 1.0), (0.8, 0.25), (0.4, 1.5), (1 / 3, 2.0), (0.25, 2.0), (0.01, 2.0), (0.0, 2.0), (1.0, 0.0)],
)
def test_weight_is_p_target_over_p_source_up_to_the_cap(p_source, weight):
    assert task_weight(logits_of(p_source), cap=2).item() == pytest.approx(weight, abs=1e-6)


def test_p_source_is_the_mean_over_rows_and_not_the_mean_of_ratios():
    assert task_weight(logits_of(0.3, 0.9), cap=2).item() == pytest.approx(0.4 / 0.6)


def test_maps_and_rows_count_alike():
    rows = logits_of(0.3, 0.9, 0.6, 0.6)
    assert task_weight(rows.T.reshape(1, 2, 2, 2), cap=2).item() == pytest.approx(task_weight(rows, cap=2).item())


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)), max_size=6), st.floats(0.1, 100))
def test_weight_is_finite_and_within_bounds_whatever_the_logits(rows, cap):
    logits = torch.tensor(rows).reshape(-1, 2)
    assert 0 <= task_weight(logits, cap).item() <= max(cap, 1) * (1 + 1e-6)
    assert 0.5 <= task_weight_released(logits).item() <= 1.5
    assert 0.5 <= task_weight_released(logits, both_channels=False).item() <= 1.5


def test_no_gradient_passes_through_a_weight():
    logits = torch.tensor([[0.3, -0.2]], requires_grad=True)
    task = torch.tensor(2.0, requires_grad=True)
    for weight in (task_weight(logits, cap=2), task_weight_released(logits)):
        assert not weight.requires_grad
        (weight * task).backward()
    assert logits.grad is None
    assert task.grad is not None


def test_no_rows_give_weight_one():
    assert task_weight(torch.zeros(0, 2), cap=2).item() == 1
    assert task_weight_released(torch.zeros(0, 2)).item() == 1


@pytest.mark.parametrize(
    ("p_source", "weight"), [(0.5, 1.0), (0.4, (1.5 + 2 / 3) / 2), (0.6, (1.5 + 2 / 3) / 2), (0.9, 1.5)]
)
def test_released_weight_of_both_channels_rises_on_either_side(p_source, weight):
    assert task_weight_released(logits_of(p_source)).item() == pytest.approx(weight)


@pytest.mark.parametrize(("p_source", "weight"), [(0.5, 1.0), (0.6, 2 / 3), (0.9, 0.5), (0.1, 1.5)])
def test_released_weight_of_instances_falls_with_p_source(p_source, weight):
    assert task_weight_released(logits_of(p_source), both_channels=False).item() == pytest.approx(weight)


def test_released_weight_of_instances_is_the_mean_of_ratios():
    assert task_weight_released(logits_of(0.5, 0.8), both_channels=False).item() == pytest.approx((1 + 0.25) / 2)
