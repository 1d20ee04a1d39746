"""Mask R-CNN on torchvision's parts, opened where domain adaptation needs its features (Sec. 3.1)."""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss, maskrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead, concat_box_prediction_layers
from torchvision.ops import boxes as box_ops

from pdamlib.models.backbone import group_norm
from pdamlib.models.roi_pool import PyramidRoIAlign

NUCLEUS = 1
Pyramid = Mapping[str, Tensor]
Target = dict[str, Tensor]


class FullPrecisionAnchors(AnchorGenerator):
    """Anchors in float32 also where features are bfloat16, whose 8 bits tell apart only every second pixel at 512."""

    def forward(self, images: ImageList, maps: list[Tensor]) -> list[Tensor]:
        anchors: list[Tensor] = super().forward(images, [torch.empty(m.shape, device=m.device) for m in maps])
        return anchors


class FullPrecisionRPNHead(RPNHead):
    """Objectness and box deltas of each level in float32, for the same reason."""

    def forward(self, maps: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        objectness, deltas = super().forward(maps)
        return [level.float() for level in objectness], [level.float() for level in deltas]


class FullPrecisionPredictor(FastRCNNPredictor):
    """Class logits and box deltas of each RoI in float32, for the same reason."""

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        logits, deltas = super().forward(features)
        return logits.float(), deltas.float()


class ProposalNetwork(RegionProposalNetwork):
    """Region proposal network over the first `len(anchor_sizes)` levels of p2..p6, p6 being every second cell of p5."""

    def __init__(
        self,
        in_channels: int,
        anchor_sizes: tuple[tuple[int, ...], ...] = ((8,), (16,), (32,), (64,), (128,)),
        aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0),
        pre_nms: tuple[int, int] = (2000, 1000),
        post_nms: tuple[int, int] = (1000, 1000),
        nms: float = 0.7,
        samples: int = 256,
    ) -> None:
        """Build it.

        anchor_sizes: sides in pixels for each level, equally many a level. pre_nms: proposals kept for each level,
        post_nms: for each image, in training and at test time. samples: anchors in the loss, at most half positive.
        """
        anchors = FullPrecisionAnchors(anchor_sizes, (aspect_ratios,) * len(anchor_sizes))
        super().__init__(
            anchors,
            FullPrecisionRPNHead(in_channels, anchors.num_anchors_per_location()[0]),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=samples,
            positive_fraction=0.5,
            pre_nms_top_n=dict(zip(("training", "testing"), pre_nms, strict=True)),
            post_nms_top_n=dict(zip(("training", "testing"), post_nms, strict=True)),
            nms_thresh=nms,
        )
        self.levels = len(anchor_sizes)

    def losses(self, images: ImageList, pyramid: Pyramid, targets: list[Target]) -> tuple[list[Tensor], Target]:
        """Return the proposals, (N, 4) for each image, and the losses `rpn_objectness` and `rpn_box`."""
        proposals, losses = super().forward(images, self._maps(pyramid), targets)
        return proposals, {"rpn_objectness": losses["loss_objectness"], "rpn_box": losses["loss_rpn_box_reg"]}

    @torch.no_grad()
    def propose(self, images: ImageList, pyramid: Pyramid) -> list[Tensor]:
        """Return the proposals, (N, 4) for each image, of images without labels."""
        maps = list(self._maps(pyramid).values())
        objectness, deltas = self.head(maps)
        anchors = self.anchor_generator(images, maps)
        per_level = [level[0].numel() for level in objectness]
        objectness, deltas = concat_box_prediction_layers(objectness, deltas)
        boxes = self.box_coder.decode(deltas, anchors).view(len(anchors), -1, 4)
        proposals: list[Tensor] = self.filter_proposals(boxes, objectness, images.image_sizes, per_level)[0]
        return proposals

    def _maps(self, pyramid: Pyramid) -> dict[str, Tensor]:
        maps = dict(pyramid)
        maps["p6"] = F.max_pool2d(maps["p5"], kernel_size=1, stride=2)
        return dict(list(maps.items())[: self.levels])


class BoxHead(nn.Sequential):
    """Two fully connected layers. forward: pooled RoIs (N, C, s, s) -> box features (N, features)."""

    def __init__(self, inputs: int, features: int, groups: int | None) -> None:
        layers: list[nn.Module] = [nn.Flatten()]
        for entering in (inputs, features):
            layers.append(nn.Linear(entering, features, bias=groups is None))
            if groups is not None:
                layers.append(group_norm(features, groups))
            layers.append(nn.ReLU(inplace=True))
        super().__init__(*layers)


class InstanceHeads(RoIHeads):
    """Box head and mask head, and the features of both for the same RoIs.

    Box features are four times as long as the mask head has channels (1024 = 2 x 2 x 256): the two can be added.
    """

    def __init__(
        self,
        in_channels: int,
        mask_channels: int = 256,
        mask_convs: int = 4,
        groups: int | None = 32,
        samples: int = 512,
        positive_fraction: float = 0.25,
        score: float = 0.05,
        nms: float = 0.5,
        detections: int = 1000,
        canonical_scale: int = 224,
    ) -> None:
        """Build them.

        groups: GroupNorm groups in both heads, None for no normalisation. samples: RoIs an image in the losses.
        score, nms, detections: which boxes become detections at test time, and how many for each image.
        canonical_scale: side in pixels of a RoI that is pooled from P4, half of it from P3; below a quarter, from P2.
        """
        self.features = 4 * mask_channels
        norm = None if groups is None else partial(group_norm, groups=groups)
        super().__init__(
            PyramidRoIAlign(7, canonical_scale),
            BoxHead(in_channels * 7 * 7, 4 * mask_channels, groups),
            FullPrecisionPredictor(4 * mask_channels, num_classes=2),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=samples,
            positive_fraction=positive_fraction,
            bbox_reg_weights=None,
            score_thresh=score,
            nms_thresh=nms,
            detections_per_img=detections,
            mask_roi_pool=PyramidRoIAlign(14, canonical_scale),
            mask_head=MaskRCNNHeads(in_channels, (mask_channels,) * mask_convs, 1, norm),
            mask_predictor=MaskRCNNPredictor(mask_channels, mask_channels, num_classes=2),
        )

    def losses(
        self, pyramid: Pyramid, proposals: list[Tensor], sizes: list[tuple[int, int]], targets: list[Target]
    ) -> tuple[Target, Tensor]:
        """Return the losses `det_class`, `det_box`, `det_mask`, and the features of the positive RoIs (N, features)."""
        proposals, matched, labels, deltas = self.select_training_samples(proposals, targets)
        box_features = self.box_head(self.box_roi_pool(pyramid, proposals, sizes))
        loss_class, loss_box = fastrcnn_loss(*self.box_predictor(box_features), labels, deltas)
        positive = [label > 0 for label in labels]
        boxes = [box[keep] for box, keep in zip(proposals, positive, strict=True)]
        mask_features = self.mask_head(self.mask_roi_pool(pyramid, boxes, sizes))
        loss_mask = maskrcnn_loss(
            self.mask_predictor(mask_features),
            boxes,
            [target["masks"] for target in targets],
            [target["labels"] for target in targets],
            [index[keep] for index, keep in zip(matched, positive, strict=True)],
        )
        losses = {"det_class": loss_class, "det_box": loss_box, "det_mask": loss_mask}
        return losses, instance_features(box_features[torch.cat(positive)], mask_features)

    def features_of(self, pyramid: Pyramid, boxes: list[Tensor], sizes: list[tuple[int, int]]) -> Tensor:
        """Return the instance features (N, features) of the given boxes of all images, in their order."""
        box_features = self.box_head(self.box_roi_pool(pyramid, boxes, sizes))
        return instance_features(box_features, self.mask_head(self.mask_roi_pool(pyramid, boxes, sizes)))

    @torch.no_grad()
    def detect(
        self, pyramid: Pyramid, proposals: list[Tensor], sizes: list[tuple[int, int]], score: float, limit: int
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return boxes (N, 4) and scores (N,) of each image's best `limit` detections over `score`, best first."""
        logits, deltas = self.box_predictor(self.box_head(self.box_roi_pool(pyramid, proposals, sizes)))
        counts = [len(boxes) for boxes in proposals]
        all_scores = logits.softmax(dim=-1)[:, NUCLEUS].split(counts)
        all_boxes = self.box_coder.decode(deltas, proposals)[:, NUCLEUS].split(counts)
        found = [
            _best_boxes(box_ops.clip_boxes_to_image(boxes, size), scores, score, self.nms_thresh, limit)
            for boxes, scores, size in zip(all_boxes, all_scores, sizes, strict=True)
        ]
        return [boxes for boxes, _ in found], [scores for _, scores in found]

    @torch.no_grad()
    def masks_of(self, pyramid: Pyramid, boxes: list[Tensor], sizes: list[tuple[int, int]]) -> list[Tensor]:
        """Return for each image the nucleus probability on a grid over each box: (N, 28, 28), 0..1."""
        logits = self.mask_predictor(self.mask_head(self.mask_roi_pool(pyramid, boxes, sizes)))
        return list(logits[:, NUCLEUS].float().sigmoid().split([len(box) for box in boxes]))


def instance_features(box_features: Tensor, mask_features: Tensor) -> Tensor:
    """Return what the instance discriminator sees, box features plus pooled mask features (Sec. 3.1): (N, 4 C).

    Row i of both must be the same RoI. box_features: (N, 4 C). mask_features: (N, C, 14, 14), averaged to 2 x 2.
    """
    return box_features + F.adaptive_avg_pool2d(mask_features, 2).flatten(start_dim=1)


def _best_boxes(boxes: Tensor, scores: Tensor, score: float, nms: float, limit: int) -> tuple[Tensor, Tensor]:
    keep = (scores > score).nonzero()[:, 0]
    keep = keep[box_ops.remove_small_boxes(boxes[keep], min_size=1e-2)]
    keep = keep[box_ops.nms(boxes[keep], scores[keep], nms)[:limit]]
    return boxes[keep], scores[keep]
