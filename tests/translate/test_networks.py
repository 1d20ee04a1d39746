"""The networks of CycleGAN: sizes, what a discriminator sees, and what the residual generator starts from."""

import pytest
import torch
from torch import nn

from pdamlib.translate.networks import Generator, PatchDiscriminator, ResidualBlock


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def without_norm(network: nn.Module) -> nn.Module:
    """Return the network with every instance norm taken out: its mean and variance look at the whole image."""
    for module in network.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.InstanceNorm2d):
                setattr(module, name, nn.Identity())
    return network


def seen(network: nn.Module, size: int, row: int, column: int) -> tuple[int, int, int, int]:
    """Return the first and last row, first and last column of the input that one output pixel depends on."""
    image = torch.zeros(1, 3, size, size, requires_grad=True)
    network(image)[0, 0, row, column].backward()
    rows, columns = torch.nonzero(image.grad.abs().sum(dim=(0, 1)), as_tuple=True)
    return int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max())


def test_the_papers_generator_has_11_4_million_parameters():
    with torch.device("meta"):
        generator = Generator()
    # 9,472 + 73,856 + 295,168 down; 9 blocks of 2 x 590,080; 295,040 + 73,792 + 9,411 up
    assert parameters(generator) == 11_378_179
    assert sum(isinstance(module, ResidualBlock) for module in generator.modules()) == 9


def test_the_papers_discriminator_has_2_8_million_parameters():
    with torch.device("meta"):
        assert parameters(PatchDiscriminator()) == 3_136 + 131_200 + 524_544 + 2_097_664 + 8_193


@pytest.mark.parametrize("residual", [False, True])
def test_a_generator_keeps_shape_and_range(residual: bool):
    torch.manual_seed(0)
    out = Generator(4, 1, residual)(3 * torch.randn(2, 3, 32, 48))
    assert out.shape == (2, 3, 32, 48)
    assert out.abs().max() <= 1 and out.std() > 0


def test_sizes_at_the_papers_scale():
    with torch.device("meta"):
        image = torch.empty(1, 3, 256, 256)
        assert Generator()(image).shape == (1, 3, 256, 256)
        assert PatchDiscriminator()(image).shape == (1, 1, 30, 30)


def test_a_discriminator_gives_a_score_a_window():
    assert PatchDiscriminator(4)(torch.zeros(2, 3, 96, 64)).shape == (2, 1, 96 // 8 - 2, 64 // 8 - 2)


def test_a_discriminator_sees_windows_of_70_px():
    torch.manual_seed(0)
    first, last, left, right = seen(without_norm(PatchDiscriminator(4)), 128, 7, 7)
    assert last - first + 1 == 70 and right - left + 1 == 70
    assert seen(without_norm(PatchDiscriminator(4)), 128, 8, 7)[:2] == (first + 8, last + 8)  # 8 px further on


def test_a_generator_pads_by_reflection_outside_its_strides():
    layers = [layer for layer in Generator(4, 2).modules() if isinstance(layer, nn.Conv2d)]
    modes = [(layer.stride, layer.padding_mode) for layer in layers]
    inner = [((2, 2), "zeros")] * 2 + [((1, 1), "reflect")] * 4
    assert modes == [((1, 1), "reflect"), *inner, ((1, 1), "reflect")]


def test_a_residual_block_adds_to_its_input():
    block = ResidualBlock(4)
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    x = torch.randn(1, 4, 8, 8)
    assert torch.equal(block(x), x)


def test_a_residual_generator_starts_from_its_input():
    torch.manual_seed(0)
    image = torch.rand(1, 3, 32, 32) * 2 - 1
    plain, residual = Generator(8, 2), Generator(8, 2, residual=True)
    last = residual.body[-1]
    with torch.no_grad():
        last.weight.mul_(0.01)
        near = residual(image)
        assert (near - torch.tanh(image)).abs().max() < 0.05
        last.weight.zero_()
        assert torch.equal(residual(image), torch.tanh(image))
        fresh = Generator(8, 2, residual=True)(image)

        def likeness(first: torch.Tensor, second: torch.Tensor) -> float:
            return float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1])

        assert likeness(fresh, image) > 0.8 > abs(likeness(plain(image), image))


@pytest.mark.parametrize("network", [Generator(16, 2), PatchDiscriminator(16)])
def test_weights_start_as_in_the_original_work(network: nn.Module):
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    weights = torch.cat([layer.weight.flatten() for layer in layers])
    assert weights.std().item() == pytest.approx(0.02, rel=0.05) and abs(weights.mean().item()) < 1e-3
    assert not any(layer.bias.any() for layer in layers)
    assert not any(m.affine for m in network.modules() if isinstance(m, nn.InstanceNorm2d))
