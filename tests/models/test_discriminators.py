import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pdamlib.models.discriminators import (
    ImageDiscriminator,
    InstanceDiscriminator,
    SemanticDiscriminator,
    pooled_pyramid,
)


def sizes_of(module: nn.Module, x: torch.Tensor, kinds: tuple[type[nn.Module], ...]) -> list[tuple[int, ...]]:
    """Return the output shape of each child of these kinds, without the batch."""
    shapes = []
    for layer in module.children():
        x = layer(x)
        if isinstance(layer, kinds):
            shapes.append(tuple(x.shape[1:]))
    return shapes


def settings_of(layer: nn.Conv2d) -> tuple[object, ...]:
    return layer.kernel_size, layer.stride, layer.padding


def test_image_discriminator_is_table_1():
    discriminator = ImageDiscriminator().to("meta")
    convolutions = [layer for layer in discriminator.children() if isinstance(layer, nn.Conv2d)]
    assert [settings_of(layer) for layer in convolutions] == [((3, 3), (1, 1), (1, 1))] * 3 + [((1, 1), (1, 1), (0, 0))]
    image = torch.empty(1, 256, 8, 8, device="meta")
    assert sizes_of(discriminator, image, (nn.Conv2d,)) == [(256, 8, 8), (512, 8, 8), (512, 8, 8), (2, 8, 8)]


def test_semantic_discriminator_is_table_2():
    discriminator = SemanticDiscriminator().to("meta")
    convolutions = [layer for layer in discriminator.children() if isinstance(layer, nn.Conv2d)]
    assert [settings_of(layer) for layer in convolutions] == [
        ((7, 7), (2, 2), (3, 3)),
        *[((5, 5), (2, 2), (2, 2))] * 3,
        ((1, 1), (1, 1), (0, 0)),
    ]
    residuals = [layer for layer in discriminator.children() if not isinstance(layer, nn.Conv2d | nn.ReLU)]
    for block, channels in zip(residuals, (64, 128, 256, 512), strict=True):
        inner = [layer for layer in block.modules() if isinstance(layer, nn.Conv2d)]
        assert [settings_of(layer) for layer in inner] == [((3, 3), (1, 1), (1, 1))] * 2
        assert {(layer.in_channels, layer.out_channels) for layer in inner} == {(channels, channels)}
    kinds = (nn.Conv2d, type(residuals[0]))
    stages = [(64, 128, 128), (128, 64, 64), (256, 32, 32), (512, 16, 16)]
    expected = [shape for shape in stages for _ in ("C", "R")] + [(2, 16, 16)]
    assert sizes_of(discriminator, torch.empty(1, 2, 256, 256, device="meta"), kinds) == expected


def test_instance_discriminator_has_three_layers():
    def linear(module: nn.Module) -> list[tuple[int, int]]:
        return [(m.in_features, m.out_features) for m in module.modules() if isinstance(m, nn.Linear)]

    assert linear(InstanceDiscriminator()) == [(1024, 1024), (1024, 1024), (1024, 2)]
    assert linear(InstanceDiscriminator(hidden=256)) == [(1024, 1024), (1024, 256), (256, 2)]
    assert [m.p for m in InstanceDiscriminator().modules() if isinstance(m, nn.Dropout)] == [0.5, 0.5]


@pytest.mark.parametrize("module", [ImageDiscriminator(16), SemanticDiscriminator(2, 4), InstanceDiscriminator(16)])
def test_no_discriminator_normalises(module):
    assert not [m for m in module.modules() if "Norm" in type(m).__name__]


def test_residual_connection_passes_the_input_on():
    block = SemanticDiscriminator(2, 4)[2]
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    x = torch.tensor([1.0, -2.0, 3.0, 0.0]).view(1, 4, 1, 1)
    assert torch.equal(block(x), x.relu())


def test_pooled_pyramid_literally():
    fine = torch.arange(16.0).view(1, 1, 4, 4)
    coarse = torch.tensor([[10.0, 20], [30, 40]]).view(1, 1, 2, 2)
    pooled = pooled_pyramid({"p4": fine, "p5": coarse})
    # means of the 2 x 2 blocks: 2.5, 4.5, 10.5, 12.5
    assert pooled.view(-1).tolist() == [12.5, 24.5, 40.5, 52.5]
    assert pooled_pyramid({"p4": fine, "p5": coarse}, size=1).item() == 7.5 + 25


def test_pooled_pyramid_is_8_x_8_for_the_papers_patches():
    pyramid = {f"p{n}": torch.zeros(1, 4, 256 >> n, 256 >> n) for n in (2, 3, 4, 5)}
    assert pooled_pyramid(pyramid).shape == (1, 4, 8, 8)


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda: ImageDiscriminator(8), (4, 8, 8, 8)),
        (lambda: SemanticDiscriminator(2, 4), (4, 2, 32, 32)),
        (lambda: InstanceDiscriminator(16), (32, 16)),
    ],
)
def test_discriminators_learn_to_separate_what_can_be_separated(build, shape):
    torch.manual_seed(0)
    discriminator = build()
    features = [torch.randn(shape) - 0.5, torch.randn(shape) + 0.5]
    optimiser = torch.optim.SGD(discriminator.parameters(), lr=0.02, momentum=0.9)

    def loss() -> torch.Tensor:
        terms = []
        for domain, feature in enumerate(features):
            logits = discriminator(feature)
            truth = torch.full((len(feature), *logits.shape[2:]), domain)
            terms.append(F.cross_entropy(logits, truth))
        return torch.stack(terms).mean()

    first = loss().item()
    for _ in range(40):
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()
    discriminator.eval()
    assert loss().item() < first / 3
