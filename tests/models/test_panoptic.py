import inspect
import math

import pytest
import torch
from torch import nn
from torchvision.models.detection.image_list import ImageList

from pdamlib.adapt.grl import gradient_reversal
from pdamlib.adapt.losses import SOURCE, TARGET, domain_loss, entropy_map
from pdamlib.models.discriminators import pooled_pyramid
from pdamlib.models.panoptic import PanopticDA, TrainingOutputs, panoptic_network

TASKS = ["rpn_objectness", "rpn_box", "det_class", "det_box", "det_mask", "sem_seg"]
TINY = {
    "depth": 10,
    "width": 8,
    "fpn_channels": 16,
    "groups": 4,
    "pre_nms": (100, 100),
    "post_nms": (50, 50),
    "roi_samples": 16,
    "mask_channels": 16,
    "mask_convs": 1,
    "semantic_channels": 16,
    "discriminator_width": 4,
    "target_instances": 5,
}


def tiny(**changes: object) -> PanopticDA:
    torch.manual_seed(0)
    return panoptic_network(**(TINY | changes))


def scene(size: int, seed: int = 0) -> tuple[torch.Tensor, list[dict[str, torch.Tensor]], torch.Tensor]:
    """Return an image (1, 3, size, size) of dark squares, its detection targets and its semantic mask."""
    generator = torch.Generator().manual_seed(seed)
    corners = [(4, 6), (30, 8), (12, 34), (40, 40)]
    boxes = torch.tensor([[x, y, x + 12, y + 14] for x, y in corners], dtype=torch.float32)
    masks = torch.zeros(len(corners), size, size, dtype=torch.uint8)
    for mask, (x, y) in zip(masks, corners, strict=True):
        mask[y : y + 14, x : x + 12] = 1
    semantic = masks.amax(dim=0)
    image = 0.8 - 0.5 * semantic + 0.05 * torch.randn(3, size, size, generator=generator)
    target = {"boxes": boxes, "labels": torch.ones(len(corners), dtype=torch.int64), "masks": masks}
    return image.clamp(0, 1)[None], [target], semantic.long()[None]


def domain_losses(network: PanopticDA, outputs: TrainingOutputs) -> dict[str, torch.Tensor]:
    pairs = {
        "img": (pooled_pyramid(outputs.pyramid_source), pooled_pyramid(outputs.pyramid_target)),
        "sem": (entropy_map(outputs.semantic_source), entropy_map(outputs.semantic_target)),
        "ins": (outputs.instance_source, outputs.instance_target),
    }
    return {
        level: sum(
            domain_loss(network.discriminators[level](gradient_reversal(features)), domain)
            for features, domain in zip(pair, (SOURCE, TARGET), strict=True)
        )
        for level, pair in pairs.items()
    }


def test_training_outputs_have_every_term_and_shape():
    image, targets, semantic = scene(64)
    outputs = tiny()(image, targets, semantic, scene(64, seed=1)[0])
    assert sorted(outputs.losses) == sorted(TASKS)
    assert all(loss.shape == () and torch.isfinite(loss) for loss in outputs.losses.values())
    for pyramid in (outputs.pyramid_source, outputs.pyramid_target):
        assert [maps.shape for maps in pyramid.values()] == [(1, 16, 64 >> n, 64 >> n) for n in (2, 3, 4, 5)]
    assert outputs.semantic_source.shape == outputs.semantic_target.shape == (1, 2, 64, 64)
    assert outputs.instance_source.shape[1] == outputs.instance_target.shape[1] == 64
    assert 1 <= len(outputs.instance_target) <= 5


def test_every_parameter_learns_from_the_sum_of_all_losses():
    network = tiny(dropout=0.0)
    image, targets, semantic = scene(64)
    outputs = network(image, targets, semantic, scene(64, seed=1)[0])
    torch.stack([*outputs.losses.values(), *domain_losses(network, outputs).values()]).sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []


def test_the_backbone_runs_once_for_both_domains():
    network = tiny()
    seen = []
    network.backbone.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0].shape))
    image, targets, semantic = scene(64)
    network(image, targets, semantic, image)
    assert seen == [(2, 3, 64, 64)]


def test_target_images_change_no_task_loss_and_get_no_gradient_from_it():
    network = tiny()
    image, targets, semantic = scene(64)
    target_image = scene(64, seed=1)[0].requires_grad_()
    torch.manual_seed(1)
    alone = network(image, targets, semantic).losses
    torch.manual_seed(1)
    both = network(image, targets, semantic, target_image)
    assert {name: loss.item() for name, loss in both.losses.items()} == pytest.approx(
        {name: loss.item() for name, loss in alone.items()}, rel=1e-4
    )
    torch.stack(list(both.losses.values())).sum().backward(retain_graph=True)
    assert target_image.grad.abs().max() == 0
    torch.stack(list(domain_losses(network, both).values())).sum().backward()
    assert target_image.grad.abs().max() > 0


def test_training_has_no_argument_for_target_labels():
    assert list(inspect.signature(PanopticDA.forward).parameters) == [
        "self",
        "source_images",
        "targets",
        "semantic_masks",
        "target_images",
    ]


@pytest.mark.parametrize("level", ["img", "sem", "ins"])
def test_each_domain_loss_reaches_the_backbone_reversed(level):
    network = tiny(dropout=0.0)
    image, targets, semantic = scene(64)
    gradients = []
    for turn in (gradient_reversal, torch.clone):
        torch.manual_seed(1)
        outputs = network(image, targets, semantic, scene(64, seed=1)[0])
        features = {
            "img": pooled_pyramid(outputs.pyramid_target),
            "sem": entropy_map(outputs.semantic_target),
            "ins": outputs.instance_target,
        }[level]
        network.zero_grad()
        domain_loss(network.discriminators[level](turn(features)), TARGET).backward()
        gradients.append(network.backbone.body.conv1.weight.grad.clone())
    assert gradients[0].abs().sum() > 0
    assert torch.allclose(gradients[0], -gradients[1], rtol=1e-3, atol=1e-9)


def test_no_target_detection_gives_no_row_and_a_step_that_still_works():
    network = tiny(target_score=1.0)
    image, targets, semantic = scene(64)
    outputs = network(image, targets, semantic, image)
    assert outputs.instance_target.shape == (0, 64)
    total = torch.stack(list(domain_losses(network, outputs).values())).sum()
    total.backward()
    assert torch.isfinite(total)


def test_parts_that_are_left_out_leave_their_outputs_out():
    network = tiny(levels=("img",), semantic_channels=None)
    image, targets, _ = scene(64)
    outputs = network(image, targets, target_images=image)
    assert sorted(outputs.losses) == sorted(TASKS[:-1])
    assert outputs.semantic_source is outputs.semantic_target is outputs.instance_target is None
    assert list(network.discriminators) == ["img"]
    assert network(image, targets).pyramid_target is None


def test_batches_of_several_images_train():
    scenes = [scene(64, seed) for seed in (0, 1)]
    images = torch.cat([image for image, _, _ in scenes])
    targets = [target for _, (target,), _ in scenes]
    outputs = tiny()(images, targets, torch.cat([semantic for _, _, semantic in scenes]), images)
    assert outputs.semantic_source.shape[0] == outputs.pyramid_target["p2"].shape[0] == 2
    assert all(torch.isfinite(loss) for loss in outputs.losses.values())


def test_one_image_can_be_learnt_by_heart():
    network = tiny(dropout=0.0)
    image, targets, semantic = scene(64)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.02, momentum=0.9)
    history = []
    for _ in range(60):
        losses = network(image, targets, semantic).losses
        total = torch.stack(list(losses.values())).sum()
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        history.append(total.item())
    assert history[-1] < history[0] / 2
    found = network.eval().predict(image[0])
    assert found["scores"][0] > 0.5


def test_boxes_keep_full_precision_in_bfloat16():
    network = tiny(score=0.0)
    image, targets, semantic = scene(512)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = network(image, targets, semantic, image)
        proposals = network.rpn.propose(ImageList(image, [(512, 512)]), outputs.pyramid_source)[0]
        found = network.eval().predict(image[0])
    assert outputs.pyramid_source["p2"].dtype == torch.bfloat16
    assert all(torch.isfinite(loss) for loss in outputs.losses.values())
    for boxes in (proposals, found["boxes"]):
        assert boxes.dtype == torch.float32
        assert (boxes.bfloat16() != boxes).float().mean() > 0.5
    assert found["scores"].dtype == found["masks"].dtype == torch.float32


@pytest.mark.parametrize(("height", "width"), [(64, 64), (50, 75), (20, 33)])
def test_predictions_of_any_image_size(height, width):
    image = torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))
    found = tiny(score=0.0).eval().predict(image)
    count = len(found["scores"])
    assert count > 0
    assert found["boxes"].shape == (count, 4)
    assert found["masks"].shape == (count, 28, 28)
    assert found["masks"].min() >= 0
    assert found["masks"].max() <= 1
    assert (found["scores"].diff() <= 0).all()
    assert (found["boxes"] >= 0).all()
    assert (found["boxes"] <= torch.tensor([width, height, width, height])).all()


def test_a_batch_predicts_what_its_images_predict():
    network = tiny(score=0.0).eval()
    images = torch.cat([scene(64, seed)[0] for seed in (0, 1)])
    for together, image in zip(network.predict_batch(images), images, strict=True):
        alone = network.predict(image)
        assert len(together["boxes"]) == len(alone["boxes"])
        assert torch.allclose(together["boxes"], alone["boxes"], atol=1e-3)
        assert torch.allclose(together["masks"], alone["masks"], atol=1e-3)


def test_prediction_uses_the_mask_rcnn_part_alone():
    network = tiny(score=0.0).eval()
    image = scene(64)[0][0]
    full = network.predict(image)
    network.semantic, network.discriminators = None, nn.ModuleDict()
    bare = network.predict(image)
    assert all(torch.equal(full[name], bare[name]) for name in full)


def test_images_are_normalised_inside():
    network = tiny(mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 4.0))
    seen = []
    network.backbone.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    image, targets, semantic = scene(64)
    network(image, targets, semantic)
    network.eval().predict(image[0])
    expected = torch.stack([image[0, 0] - 0.1, (image[0, 1] - 0.2) / 2, (image[0, 2] - 0.3) / 4])
    assert all(torch.allclose(x[0], expected) for x in seen)
    assert "mean" not in network.state_dict()


def test_sizes_of_the_paper_network_at_256_px():
    with torch.device("meta"):
        network = panoptic_network()
        pyramid = network.backbone(torch.empty(1, 3, 256, 256))
        semantic = network.semantic(pyramid)
        pooled = pooled_pyramid(pyramid)
        domains = {
            "img": network.discriminators["img"](pooled),
            "sem": network.discriminators["sem"](entropy_map(semantic)),
            "ins": network.discriminators["ins"](torch.empty(7, network.roi_heads.features)),
        }
    assert [tuple(maps.shape) for maps in pyramid.values()] == [(1, 256, 256 >> n, 256 >> n) for n in (2, 3, 4, 5)]
    assert semantic.shape == (1, 2, 256, 256)
    assert pooled.shape == (1, 256, 8, 8)
    assert network.roi_heads.features == 1024
    shapes = {level: tuple(logits.shape) for level, logits in domains.items()}
    assert shapes == {"img": (1, 2, 8, 8), "sem": (1, 2, 16, 16), "ins": (7, 2)}


def test_the_paper_network_normalises_by_groups_of_32_except_in_discriminators():
    with torch.device("meta"):
        network = panoptic_network()
    norms = {name: module for name, module in network.named_modules() if "Norm" in type(module).__name__}
    wrappers = {name for name, module in norms.items() if type(module).__name__ == "Conv2dNormActivation"}
    groups = {module.num_groups for name, module in norms.items() if name not in wrappers}
    assert {type(module) for name, module in norms.items() if name not in wrappers} == {nn.GroupNorm}
    assert groups == {32}
    assert not [name for name in norms if name.startswith("discriminators")]


@pytest.mark.slow
def test_the_paper_network_takes_a_training_step_at_256_px():
    torch.manual_seed(0)
    network = panoptic_network()
    image, targets, semantic = scene(256)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.002, momentum=0.9, weight_decay=0.001)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    outputs = network(image, targets, semantic, scene(256, seed=1)[0])
    total = torch.stack([*outputs.losses.values(), *domain_losses(network, outputs).values()]).sum()
    total.backward()
    optimiser.step()
    assert math.isfinite(total.item())
    assert outputs.instance_source.shape[1] == outputs.instance_target.shape[1] == 1024
    assert all(torch.isfinite(p).all() for p in network.parameters())
    assert [name for name, p in network.named_parameters() if torch.equal(p, before[name])] == []
