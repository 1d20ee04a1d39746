import pytest
import torch

from pdamlib.adapt.grl import gradient_reversal


def test_forward_changes_nothing():
    x = torch.tensor([[1.0, -2.0], [0.5, 3.0]])
    assert torch.equal(gradient_reversal(x), x)


@pytest.mark.parametrize("scale", [1.0, 0.25, 0.0])
def test_gradient_is_multiplied_by_minus_scale(scale):
    x = torch.tensor([1.0, -2.0, 3.0], requires_grad=True)
    (gradient_reversal(x, scale) * torch.tensor([1.0, 10.0, 100.0])).sum().backward()
    assert torch.allclose(x.grad, -scale * torch.tensor([1.0, 10.0, 100.0]))


def test_reversal_spares_the_discriminator_and_turns_the_features():
    feature = torch.tensor([2.0], requires_grad=True)
    weight = torch.tensor([3.0], requires_grad=True)
    (weight * gradient_reversal(feature)).sum().backward()
    assert weight.grad.item() == 2.0
    assert feature.grad.item() == -3.0
