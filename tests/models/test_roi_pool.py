import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import MultiScaleRoIAlign, roi_align

from pdamlib.models.roi_pool import PyramidRoIAlign, roi_align_by_products

SIDE = 96


def boxes_of(values: list[tuple[float, float, float, float]]) -> torch.Tensor:
    a, b, c, d = torch.tensor(values, dtype=torch.float64).reshape(-1, 4).unbind(dim=1)
    return torch.stack([torch.minimum(a, c), torch.minimum(b, d), torch.maximum(a, c), torch.maximum(b, d)], dim=1)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(*[st.floats(0, SIDE)] * 4), min_size=1, max_size=5), st.sampled_from([7, 14]))
def test_products_equal_torchvision_forward_and_backward(corners, size):
    boxes = boxes_of(corners)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(3, SIDE // 4, SIDE // 4, dtype=torch.float64, generator=generator).requires_grad_()
    ours = roi_align_by_products(features, boxes, 1 / 4, size)
    theirs = roi_align(features[None], [boxes], size, 1 / 4, sampling_ratio=2)
    assert torch.allclose(ours, theirs, atol=1e-9)
    upstream = torch.randn(ours.shape, dtype=torch.float64, generator=generator)
    (mine,) = torch.autograd.grad(ours, features, upstream)
    (other,) = torch.autograd.grad(theirs, features, upstream)
    assert torch.allclose(mine, other, atol=1e-9)


def test_each_roi_comes_from_its_image_and_level_and_keeps_its_place():
    generator = torch.Generator().manual_seed(1)
    pyramid = {
        f"p{n}": torch.randn(2, 4, 256 >> n, 256 >> n, generator=generator).requires_grad_() for n in (2, 3, 4, 5)
    }
    boxes = [
        torch.tensor([[0.0, 0, 250, 250], [10, 10, 30, 30], [0, 0, 130, 140], [5, 5, 15, 25]]),
        torch.tensor([[40.0, 40, 60, 50], [0, 0, 120, 130]]),
    ]
    sizes = [(256, 256)] * 2
    theirs = MultiScaleRoIAlign(["p2", "p3", "p4", "p5"], 7, 2)(pyramid, boxes, sizes)
    assert torch.allclose(PyramidRoIAlign(7, 224)(pyramid, boxes, sizes), theirs, atol=1e-5)


def test_large_images_are_left_to_torchvision(monkeypatch):
    def refuse(*_arguments):
        raise AssertionError

    monkeypatch.setattr("pdamlib.models.roi_pool.roi_align_by_products", refuse)
    box = [torch.tensor([[8.0, 8, 24, 24]])]
    large = {f"p{n}": torch.ones(1, 1, 288 >> n, 288 >> n) for n in (2, 3, 4, 5)}
    assert torch.equal(PyramidRoIAlign(7, 224)(large, box, [(288, 288)]), torch.ones(1, 1, 7, 7))
    with pytest.raises(AssertionError):
        PyramidRoIAlign(7, 224)({f"p{n}": torch.ones(1, 1, 64 >> n, 64 >> n) for n in (2, 3, 4, 5)}, box, [(64, 64)])


def test_a_small_canonical_scale_moves_nuclei_up_the_pyramid():
    pyramid = {f"p{n}": torch.full((1, 1, 64 >> n, 64 >> n), float(n)) for n in (2, 3, 4, 5)}
    box = [torch.tensor([[0.0, 0, 40, 40]])]
    assert PyramidRoIAlign(7, 224)(pyramid, box, [(64, 64)]).unique().item() == 2
    assert PyramidRoIAlign(7, 80)(pyramid, box, [(64, 64)]).unique().item() == 3


@pytest.mark.parametrize("boxes", [[torch.zeros(0, 4)], [torch.zeros(0, 4), torch.tensor([[0.0, 0, 8, 8]])]])
def test_images_without_boxes(boxes):
    pyramid = {f"p{n}": torch.ones(2, 3, 64 >> n, 64 >> n, requires_grad=True) for n in (2, 3, 4, 5)}
    pooled = PyramidRoIAlign(7, 224)(pyramid, boxes, [(64, 64)] * len(boxes))
    assert pooled.shape == (sum(len(box) for box in boxes), 3, 7, 7)
