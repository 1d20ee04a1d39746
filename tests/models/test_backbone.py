import pytest
import torch
import torchvision
from torch import nn

from pdamlib.models.backbone import BLOCKS, group_norm, resnet_fpn


@pytest.mark.parametrize(
    ("channels", "groups", "fitting"), [(256, 32, 32), (64, 32, 32), (48, 32, 24), (24, 8, 8), (7, 4, 1), (4, 32, 4)]
)
def test_groups_fit_the_channels(channels, groups, fitting):
    assert group_norm(channels, groups).num_groups == fitting


@pytest.mark.parametrize("depth", sorted(BLOCKS))
def test_every_level_halves_the_one_before(depth):
    with torch.device("meta"):
        pyramid = resnet_fpn(depth, width=16, fpn_channels=32)(torch.empty(2, 3, 128, 64))
    assert {level: tuple(maps.shape) for level, maps in pyramid.items()} == {
        "p2": (2, 32, 32, 16),
        "p3": (2, 32, 16, 8),
        "p4": (2, 32, 8, 4),
        "p5": (2, 32, 4, 2),
    }


@pytest.mark.parametrize("depth", [18, 34, 50, 101])
def test_parameters_are_named_and_shaped_as_in_torchvision(depth):
    with torch.device("meta"):
        ours = resnet_fpn(depth).body.state_dict()
        theirs = getattr(torchvision.models, f"resnet{depth}")(norm_layer=group_norm).state_dict()
    assert {name: t.shape for name, t in ours.items()} == {n: t.shape for n, t in theirs.items() if "fc." not in n}


@pytest.mark.parametrize("depth", [18, 50])
def test_stages_equal_torchvision(depth):
    reference = getattr(torchvision.models, f"resnet{depth}")(norm_layer=group_norm).eval()
    ours = resnet_fpn(depth).body.eval()
    ours.load_state_dict({name: t for name, t in reference.state_dict().items() if "fc." not in name})
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        x = reference.maxpool(reference.relu(reference.bn1(reference.conv1(image))))
        for level, stage in zip(("p2", "p3", "p4", "p5"), ("layer1", "layer2", "layer3", "layer4"), strict=True):
            x = getattr(reference, stage)(x)
            assert torch.allclose(ours(image)[level], x, atol=1e-5)


def test_the_paper_network_has_group_norm_of_32_and_no_batch_norm():
    with torch.device("meta"):
        modules = list(resnet_fpn().modules())
    assert not any(isinstance(module, nn.modules.batchnorm._NormBase) for module in modules)
    norms = [module for module in modules if isinstance(module, nn.GroupNorm)]
    assert {norm.num_groups for norm in norms} == {32}
    # one a convolution: stem, 33 bottlenecks of 3, 4 shortcuts, 8 in the pyramid
    assert len(norms) == 1 + 33 * 3 + 4 + 8 == sum(isinstance(module, nn.Conv2d) for module in modules)
