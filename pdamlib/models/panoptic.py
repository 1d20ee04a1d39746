"""The panoptic domain-adaptive Mask R-CNN: one network whose features of both domains lie open (Sec. 3.1, 3.3)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.image_list import ImageList

from pdamlib.models.backbone import ResNetFPN, resnet_fpn
from pdamlib.models.discriminators import ImageDiscriminator, InstanceDiscriminator, SemanticDiscriminator
from pdamlib.models.mask_rcnn import InstanceHeads, ProposalNetwork, Target
from pdamlib.models.semantic import SemanticBranch

DIVISOR = 32  # stride of P5


@dataclass(frozen=True)
class TrainingOutputs:
    """What a training step needs of the network: the task losses on the source, the features of both domains.

    losses: raw scalars `rpn_objectness`, `rpn_box`, `det_class`, `det_box`, `det_mask`, and `sem_seg` with that branch.
    pyramid_*: `p2`..`p5`. semantic_*: logits (B, 2, H, W). instance_*: (N, features), one row for each RoI.
    Target fields are None without target images, semantic ones without that branch, instance_target also without
    the instance discriminator.
    """

    losses: dict[str, Tensor]
    pyramid_source: Mapping[str, Tensor]
    semantic_source: Tensor | None
    instance_source: Tensor
    pyramid_target: Mapping[str, Tensor] | None = None
    semantic_target: Tensor | None = None
    instance_target: Tensor | None = None


class PanopticDA(nn.Module):
    """Mask R-CNN with a semantic branch and domain discriminators. forward: `TrainingOutputs`.

    It applies neither gradient reversal nor entropy nor loss weights, and does not call `discriminators`
    (`img`, `sem`, `ins`, those that are there): that is the method's business.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: ResNetFPN,
        rpn: ProposalNetwork,
        roi_heads: InstanceHeads,
        semantic: SemanticBranch | None,
        discriminators: Mapping[str, nn.Module],
        mean: tuple[float, float, float] = (0.5, 0.5, 0.5),
        std: tuple[float, float, float] = (0.25, 0.25, 0.25),
        target_score: float = 0.05,
        target_instances: int = 128,
    ) -> None:
        """Join the parts.

        mean, std: of the image channels in 0..1. target_score, target_instances: instance features of a target image
        come from its detections over this score after suppression, at most so many. When there is none, none.
        """
        super().__init__()
        self.backbone, self.rpn, self.roi_heads, self.semantic = backbone, rpn, roi_heads, semantic
        self.discriminators = nn.ModuleDict(discriminators)
        self.target_score, self.target_instances = target_score, target_instances
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(
        self,
        source_images: Tensor,
        targets: list[Target],
        semantic_masks: Tensor | None = None,
        target_images: Tensor | None = None,
    ) -> TrainingOutputs:
        """Return task losses and features after one pass of the backbone over both domains.

        source_images, target_images: float32 (B, 3, S, S) in 0..1, of equal S, a multiple of 32.
        targets: one a source image: boxes (N, 4), labels (N,), masks (N, S, S). semantic_masks: int64 (B, S, S), 0, 1.
        """
        images = source_images if target_images is None else torch.cat([source_images, target_images])
        counts = [len(source_images), len(images) - len(source_images)]
        pyramid = self.backbone((images - self.mean) / self.std)
        split = {level: maps.split(counts) for level, maps in pyramid.items()}
        source, target = ({level: maps[domain] for level, maps in split.items()} for domain in (0, 1))

        batch = _image_list(source_images)
        proposals, losses = self.rpn.losses(batch, source, targets)
        instance_losses, instance_source = self.roi_heads.losses(source, proposals, batch.image_sizes, targets)
        losses |= instance_losses
        semantic_source = semantic_target = None
        if self.semantic is not None and semantic_masks is not None:
            semantic_source, semantic_target = self.semantic(pyramid).split(counts)
            losses["sem_seg"] = F.cross_entropy(semantic_source, semantic_masks)
        outputs = TrainingOutputs(losses, source, semantic_source, instance_source)
        if target_images is None:
            return outputs
        instance_target = self._target_instances(target_images, target)
        return replace(outputs, pyramid_target=target, semantic_target=semantic_target, instance_target=instance_target)

    def _target_instances(self, images: Tensor, pyramid: Mapping[str, Tensor]) -> Tensor | None:
        if "ins" not in self.discriminators:
            return None
        batch = _image_list(images)
        boxes, _ = self.roi_heads.detect(
            pyramid, self.rpn.propose(batch, pyramid), batch.image_sizes, self.target_score, self.target_instances
        )
        return self.roi_heads.features_of(pyramid, boxes, batch.image_sizes)

    @torch.no_grad()
    def predict(self, image: Tensor) -> Target:
        """Return the nuclei of one image, best first: `boxes` (N, 4) px, `scores` (N,), `masks` (N, 28, 28) in 0..1.

        A mask is a grid of probabilities over its box, not yet pasted. Only the Mask R-CNN part runs (Sec. 3.5).
        The network must be in evaluation mode.

        image: float32 (3, H, W) in 0..1, any size. Score, suppression and number: `roi_heads`' own settings.
        """
        return self.predict_batch(image[None])[0]

    @torch.no_grad()
    def predict_batch(self, images: Tensor) -> list[Target]:
        """Return `predict` of each image of float32 (B, 3, H, W)."""
        height, width = images.shape[-2:]
        padded = F.pad((images - self.mean) / self.std, (0, -width % DIVISOR, 0, -height % DIVISOR))
        batch = ImageList(padded, [(height, width)] * len(images))
        pyramid = self.backbone(padded)
        heads = self.roi_heads
        boxes, scores = heads.detect(
            pyramid, self.rpn.propose(batch, pyramid), batch.image_sizes, heads.score_thresh, heads.detections_per_img
        )
        masks = heads.masks_of(pyramid, boxes, batch.image_sizes)
        names = ("boxes", "scores", "masks")
        return [dict(zip(names, found, strict=True)) for found in zip(boxes, scores, masks, strict=True)]


def panoptic_network(
    *,
    depth: int = 101,
    width: int = 64,
    fpn_channels: int = 256,
    groups: int = 32,
    anchor_sizes: tuple[tuple[int, ...], ...] = ((8,), (16,), (32,), (64,), (128,)),
    pre_nms: tuple[int, int] = (2000, 1000),
    post_nms: tuple[int, int] = (1000, 1000),
    rpn_samples: int = 256,
    roi_samples: int = 512,
    mask_channels: int = 256,
    mask_convs: int = 4,
    head_norm: bool = True,
    score: float = 0.05,
    nms: float = 0.5,
    detections: int = 1000,
    semantic_channels: int | None = 128,
    upsampling: str = "bilinear",
    levels: tuple[str, ...] = ("img", "sem", "ins"),
    discriminator_width: int = 64,
    instance_hidden: int | None = None,
    dropout: float = 0.5,
    target_score: float = 0.05,
    target_instances: int = 128,
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5),
    std: tuple[float, float, float] = (0.25, 0.25, 0.25),
) -> PanopticDA:
    """Return a network of the given sizes; the defaults are the paper's, with anchors that fit nuclei.

    levels: which discriminators to build. semantic_channels: None leaves the semantic branch out.
    discriminator_width: of the semantic one. Other arguments: see the parts.
    """
    discriminators: dict[str, nn.Module] = {}
    if "img" in levels:
        discriminators["img"] = ImageDiscriminator(fpn_channels)
    if "sem" in levels:
        discriminators["sem"] = SemanticDiscriminator(2, discriminator_width)
    if "ins" in levels:
        discriminators["ins"] = InstanceDiscriminator(4 * mask_channels, instance_hidden, dropout)
    head_groups = groups if head_norm else None
    network = PanopticDA(
        resnet_fpn(depth, width, fpn_channels, groups),
        ProposalNetwork(fpn_channels, anchor_sizes, pre_nms=pre_nms, post_nms=post_nms, samples=rpn_samples),
        InstanceHeads(
            fpn_channels,
            mask_channels,
            mask_convs,
            head_groups,
            roi_samples,
            score=score,
            nms=nms,
            detections=detections,
        ),
        None if semantic_channels is None else SemanticBranch(fpn_channels, semantic_channels, 2, groups, upsampling),
        discriminators,
        mean,
        std,
        target_score,
        target_instances,
    )
    # at 256 px almost half off the training step on a CPU, at 128 px little
    return network.to(memory_format=torch.channels_last)


def _image_list(images: Tensor) -> ImageList:
    height, width = images.shape[-2:]
    return ImageList(images, [(height, width)] * len(images))
