import pytest
import torch
from torch import nn

from pdamlib.models.semantic import SemanticBranch


def pyramid_of(channels: int, size: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {f"p{n}": torch.randn(2, channels, size >> n, size >> n, generator=generator) for n in (2, 3, 4, 5)}


@pytest.mark.parametrize("upsampling", ["bilinear", "nearest"])
def test_logits_have_the_size_of_the_image(upsampling):
    branch = SemanticBranch(16, channels=8, upsampling=upsampling)
    assert branch(pyramid_of(16, 64)).shape == (2, 2, 64, 64)


def test_layers_of_the_paper_branch():
    branch = SemanticBranch(256)
    convolutions = {level: sum(isinstance(m, nn.Conv2d) for m in layers) for level, layers in branch.levels.items()}
    doublings = {level: sum(isinstance(m, nn.Upsample) for m in layers) for level, layers in branch.levels.items()}
    assert convolutions == {"p2": 1, "p3": 1, "p4": 2, "p5": 3}
    assert doublings == {"p2": 0, "p3": 1, "p4": 2, "p5": 3}
    norms = [m for m in branch.modules() if isinstance(m, nn.GroupNorm)]
    assert len(norms) == 7
    assert {(norm.num_groups, norm.num_channels) for norm in norms} == {(32, 128)}


def test_nearest_repeats_each_cell_and_bilinear_does_not():
    maps = pyramid_of(16, 64)
    blocks = [
        SemanticBranch(16, channels=8, upsampling=upsampling)(maps).unflatten(3, (16, 4)).unflatten(2, (16, 4))
        for upsampling in ("nearest", "bilinear")
    ]
    constant = [bool((block == block[:, :, :, :1, :, :1]).all()) for block in blocks]
    assert constant == [True, False]


@pytest.mark.parametrize("level", ["p2", "p3", "p4", "p5"])
def test_every_level_has_a_say(level):
    maps = {name: values.requires_grad_() for name, values in pyramid_of(16, 64).items()}
    SemanticBranch(16, channels=8)(maps).square().sum().backward()
    assert maps[level].grad.abs().sum() > 0
