import pytest
import torch
from torch import nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork

from pdamlib.models.mask_rcnn import BoxHead, InstanceHeads, ProposalNetwork, instance_features

SIZE = 64
SIZES = [(SIZE, SIZE)] * 2
IMAGES = ImageList(torch.zeros(2, 3, SIZE, SIZE), SIZES)
CHANNELS = 8


def pyramid() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {f"p{n}": torch.randn(2, CHANNELS, SIZE >> n, SIZE >> n, generator=generator) for n in (2, 3, 4, 5)}


def square(left: int, top: int, side: int) -> dict[str, torch.Tensor]:
    masks = torch.zeros(1, SIZE, SIZE, dtype=torch.uint8)
    masks[:, top : top + side, left : left + side] = 1
    boxes = torch.tensor([[left, top, left + side, top + side]], dtype=torch.float32)
    return {"boxes": boxes, "labels": torch.ones(1, dtype=torch.int64), "masks": masks}


def nothing() -> dict[str, torch.Tensor]:
    masks = torch.zeros(0, SIZE, SIZE, dtype=torch.uint8)
    return {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "masks": masks}


def proposals() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    corners = torch.rand(2, 30, 2, generator=generator) * (SIZE - 22)
    return list(torch.cat([corners, corners + 4 + 16 * torch.rand(2, 30, 2, generator=generator)], dim=2))


@pytest.fixture
def heads() -> InstanceHeads:
    torch.manual_seed(0)
    heads = InstanceHeads(CHANNELS, mask_channels=4, mask_convs=2, groups=2, samples=16)
    for layer in (heads.box_predictor.cls_score, heads.box_predictor.bbox_pred):
        nn.init.normal_(layer.weight)
    return heads


@pytest.fixture
def rpn() -> ProposalNetwork:
    torch.manual_seed(0)
    return ProposalNetwork(CHANNELS, pre_nms=(60, 50), post_nms=(40, 30))


def test_proposals_and_losses_are_torchvisions(rpn):
    targets = [square(8, 8, 16), square(30, 20, 9)]
    maps = pyramid() | {"p6": pyramid()["p5"][..., ::2, ::2]}
    torch.manual_seed(3)
    ours, losses = rpn.losses(IMAGES, pyramid(), targets)
    torch.manual_seed(3)
    theirs, their_losses = RegionProposalNetwork.forward(rpn, IMAGES, maps, targets)
    assert [torch.equal(a, b) for a, b in zip(ours, theirs, strict=True)] == [True, True]
    assert losses["rpn_objectness"] == their_losses["loss_objectness"]
    assert losses["rpn_box"] == their_losses["loss_rpn_box_reg"]


@pytest.mark.parametrize("training", [True, False])
def test_unlabelled_images_get_the_same_proposals(rpn, training):
    targets = [nothing(), nothing()]
    rpn.train(training)
    maps = pyramid() | {"p6": pyramid()["p5"][..., ::2, ::2]}
    theirs, _ = RegionProposalNetwork.forward(rpn, IMAGES, maps, targets)
    ours = rpn.propose(IMAGES, pyramid())
    assert [torch.equal(a, b) for a, b in zip(ours, theirs, strict=True)] == [True, True]
    assert not ours[0].requires_grad


def test_anchors_start_at_p2_with_as_many_levels_as_sizes():
    rpn = ProposalNetwork(CHANNELS, anchor_sizes=((8, 16, 32), (24, 48, 64)), aspect_ratios=(1.0,))
    boxes = rpn.anchor_generator(IMAGES, list(rpn._maps(pyramid()).values()))[0]
    assert len(boxes) == 3 * (16 * 16 + 8 * 8)
    assert (boxes[:, 2] - boxes[:, 0]).unique().tolist() == [8, 16, 24, 32, 48, 64]


def test_losses_are_torchvisions(heads):
    targets = [square(8, 8, 16), square(30, 20, 9)]
    torch.manual_seed(3)
    losses, _ = heads.losses(pyramid(), proposals(), SIZES, targets)
    torch.manual_seed(3)
    _, theirs = RoIHeads.forward(heads, pyramid(), proposals(), SIZES, targets)
    names = {"det_class": "loss_classifier", "det_box": "loss_box_reg", "det_mask": "loss_mask"}
    assert {name: losses[name].item() for name in losses} == {
        name: theirs[other].item() for name, other in names.items()
    }


def test_detections_and_masks_are_torchvisions(heads):
    heads.eval()
    with torch.no_grad():
        theirs, _ = RoIHeads.forward(heads, pyramid(), proposals(), SIZES)
    boxes, scores = heads.detect(pyramid(), proposals(), SIZES, heads.score_thresh, heads.detections_per_img)
    masks = heads.masks_of(pyramid(), boxes, SIZES)
    for image, expected in enumerate(theirs):
        assert len(expected["boxes"]) > 3
        assert torch.allclose(boxes[image], expected["boxes"])
        assert torch.allclose(scores[image], expected["scores"])
        assert torch.allclose(masks[image], expected["masks"][:, 0])


def test_detections_are_the_best_ones_over_the_score(heads):
    boxes, scores = heads.detect(pyramid(), proposals(), SIZES, 0.6, 100)
    few_boxes, few_scores = heads.detect(pyramid(), proposals(), SIZES, 0.6, 2)
    assert all(image.min() > 0.6 for image in scores)
    assert all((image.diff() <= 0).all() for image in scores)
    assert [torch.equal(few, all_[:2]) for few, all_ in zip(few_scores, scores, strict=True)] == [True, True]
    assert [torch.equal(few, all_[:2]) for few, all_ in zip(few_boxes, boxes, strict=True)] == [True, True]
    assert heads.detect(pyramid(), proposals(), SIZES, 1.0, 100)[0][0].shape == (0, 4)


def test_source_features_belong_to_the_sampled_positive_rois(heads, monkeypatch):
    chosen = {}
    select = heads.select_training_samples

    def record(*arguments):
        boxes, matched, labels, deltas = select(*arguments)
        chosen["positive"] = [box[label > 0] for box, label in zip(boxes, labels, strict=True)]
        return boxes, matched, labels, deltas

    monkeypatch.setattr(heads, "select_training_samples", record)
    _, features = heads.losses(pyramid(), proposals(), SIZES, [square(8, 8, 16), square(30, 20, 9)])
    assert len(features) == sum(len(boxes) for boxes in chosen["positive"]) >= 2
    assert torch.allclose(features, heads.features_of(pyramid(), chosen["positive"], SIZES), atol=1e-5)


def test_features_of_a_roi_do_not_depend_on_its_company(heads):
    boxes = proposals()
    together = heads.features_of(pyramid(), boxes, SIZES)
    alone = heads.features_of(pyramid(), [boxes[0][:0], boxes[1][7:8]], SIZES)
    assert torch.allclose(together[30 + 7], alone[0], atol=1e-5)


def test_instance_features_literally():
    box = torch.tensor([[1.0, 2, 3, 4, 5, 6, 7, 8]])
    mask = torch.zeros(1, 2, 14, 14)
    mask[0, 0, :7, 7:] = 10
    mask[0, 1, 13, 0] = 49
    # channel 0: upper right quarter; channel 1: one of the 49 cells of the lower left quarter
    assert instance_features(box, mask).tolist() == [[1, 12, 3, 4, 5, 6, 8, 8]]


def test_images_without_nuclei_give_finite_losses_and_no_features(heads, rpn):
    losses, features = heads.losses(pyramid(), proposals(), SIZES, [nothing(), nothing()])
    _, rpn_losses = rpn.losses(IMAGES, pyramid(), [nothing(), nothing()])
    total = torch.stack([*losses.values(), *rpn_losses.values()]).sum()
    total.backward()
    assert torch.isfinite(total)
    assert losses["det_mask"] == losses["det_box"] == rpn_losses["rpn_box"] == 0
    assert features.shape == (0, heads.features)


def test_no_boxes_give_no_features_and_no_masks(heads):
    empty = [torch.zeros(0, 4)] * 2
    assert heads.features_of(pyramid(), empty, SIZES).shape == (0, 16)
    assert [mask.shape for mask in heads.masks_of(pyramid(), empty, SIZES)] == [(0, 28, 28)] * 2


def test_norm_in_the_heads_is_a_switch():
    with_norm, without = InstanceHeads(8, 4, 2, groups=2), InstanceHeads(8, 4, 2, groups=None)
    count = [sum(isinstance(m, nn.GroupNorm) for m in heads.modules()) for heads in (with_norm, without)]
    assert count == [2 + 2, 0]
    assert [m.bias is None for m in BoxHead(4, 4, None) if isinstance(m, nn.Linear)] == [False, False]


def test_sizes_of_the_papers_heads():
    with torch.device("meta"):
        heads = InstanceHeads(256)
        box = heads.box_head(torch.empty(3, 256, 7, 7))
        mask = heads.mask_head(torch.empty(3, 256, 14, 14))
    assert box.shape == (3, 1024)
    assert mask.shape == (3, 256, 14, 14)
    assert heads.mask_predictor(mask).shape == (3, 2, 28, 28)
    assert instance_features(box, mask).shape == (3, 1024)
