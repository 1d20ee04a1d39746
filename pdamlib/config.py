"""Every setting of every profile. A number from the paper names its section; a number of ours says why.

A profile is a function returning a frozen dataclass; a variant is `dataclasses.replace`.
"""

from dataclasses import dataclass, field

from pdamlib.errors import UserError


@dataclass(frozen=True)
class PatchConfig:
    """Training patches (Sec. 4.2)."""

    size: int = 256  # Sec. 4.2
    source_count: int = 10_000  # Sec. 4.2, before patches under 3 nuclei are dropped
    target_count: int = 10_000  # Sec. 4.2
    validation_count: int = 1_000  # ours: patches of the 50 validation images on which settings are chosen
    minimum_nuclei: int = 3  # Sec. 4.2
    scale: tuple[float, float] = (0.5, 1.0)  # magnification; measured on the patches the authors released
    percentiles: tuple[float, float] = (1.0, 99.5)  # ours: robust to bright debris
    smallest: int = 10  # ours: fragments of fewer pixels at a patch's edge have no shape to learn
    invert: bool = True  # Sec. 4.2


@dataclass(frozen=True)
class TranslatorConfig:
    """CycleGAN (Sec. 3.5; Zhu et al. 2017 for what the paper takes over)."""

    width: int = 64  # Zhu et al.
    blocks: int = 9  # Zhu et al., for 256 px
    discriminator_width: int = 64  # Zhu et al.
    residual: bool = False
    crop: int = 256
    iterations: int = 200_000  # ours: the paper gives no number; 20 passes over 10K patches
    learning_rate: float = 1e-4  # Sec. 3.5
    cycle_weight: float = 10.0  # Zhu et al.
    identity_weight: float = 0.5  # the official code's default, a share of cycle_weight
    pool: int = 50  # Zhu et al.
    checkpoint_every: int = 2_000


@dataclass(frozen=True)
class InpaintConfig:
    """Nuclei inpainting (Sec. 3.2, Eq. 1-2)."""

    channel: str = "hematoxylin"  # what Otsu sees: hematoxylin (the released patches match it exactly) or grey
    radius: int = 3  # px, the released code's


@dataclass(frozen=True)
class NetworkConfig:
    """The panoptic network (Sec. 3.1, 3.3, Fig. 3): arguments of `pdamlib.models.panoptic.panoptic_network`."""

    depth: int = 101  # Sec. 3.1
    width: int = 64  # He et al.
    fpn_channels: int = 256  # Sec. 3.1: 14 x 14 x 256 in the mask branch
    groups: int = 32  # Sec. 3.5
    anchor_sizes: tuple[tuple[int, ...], ...] = ((8,), (16,), (32,), (64,), (128,))  # ours: fit nuclei; one level each
    pre_nms: tuple[int, int] = (2000, 1000)  # training, testing
    post_nms: tuple[int, int] = (1000, 1000)
    rpn_samples: int = 256  # Ren et al.
    roi_samples: int = 512  # the released code
    mask_channels: int = 256  # Sec. 3.1
    mask_convs: int = 4  # He et al.
    semantic_channels: int = 128  # Kirillov et al.
    upsampling: str = "bilinear"  # Kirillov et al.; nearest in the released code
    discriminator_width: int = 64  # Table 2
    target_instances: int = 128  # RoIs of the target at the instance level; the released code's bound of the source


@dataclass(frozen=True)
class TrainConfig:
    """Training of the detector (Sec. 3.5)."""

    iterations: int = 24_000  # the released code's for Kumar; the paper gives none
    learning_rate: float = 0.002  # Sec. 3.5
    momentum: float = 0.9  # Sec. 3.5
    weight_decay: float = 1e-3  # Sec. 3.5
    warmup: int = 500  # Sec. 3.5
    decay_at: float = 0.75  # Sec. 3.5: a tenth of the learning rate from there on
    cap: float = 2.0  # beta, Sec. 3.5
    reweighting: str = "paper"  # Eq. 3, or released: clamp(mean ratio, 0.5, 1.5)
    adversarial: str = "loss"  # alpha_da weighs the domain losses (Eq. 4), or reversal: scales the reversed gradient
    clip: float | None = None  # largest norm of the gradient; None in the paper
    checkpoint_every: int = 1_000


@dataclass(frozen=True)
class PredictConfig:
    """Inference (Sec. 3.5): settings are chosen on translated validation patches, never on the target."""

    tile: int = 512  # px
    overlap: int = 96  # px, ours: over twice the diameter of a large nucleus
    scores: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # candidates for the score threshold
    nms: float = 0.5
    taken: float = 0.7  # the released code's: a mask with a larger share of its pixels taken is dropped
    detections: int = 2_000


@dataclass(frozen=True)
class Method:
    """What a row of the tables translates, aligns and re-weights."""

    id: str
    title: str
    source: str  # patches (untranslated), translated, or inpainted
    levels: tuple[str, ...] = ()  # domain discriminators: img, sem, ins
    semantic: bool = False  # the panoptic branch
    reweight: bool = False  # Eq. 3


METHODS = {
    method.id: method
    for method in (
        Method("no_adaptation", "No adaptation", "patches"),
        Method("cyc_pdam", "CyC-PDAM (proposed)", "inpainted", ("img", "sem", "ins"), semantic=True, reweight=True),
    )
}


def method(name: str) -> Method:
    """Return a method by its id. Raises UserError for an unknown one."""
    if name not in METHODS:
        raise UserError(f"unknown method '{name}'; choose one of {', '.join(METHODS)}")
    return METHODS[name]


@dataclass(frozen=True)
class SimulationConfig:
    """The simulated data sets of a profile without real images; all of it is ours."""

    counts: tuple[int, int, int] = (24, 8, 8)  # fields of train, validation and test, in each domain
    size: tuple[int, int] = (256, 256)  # px
    gap: float = 1.0  # how far histology is from an inverted fluorescence image, 0 to 1


@dataclass(frozen=True)
class Profile:
    """One scale at which the whole study runs."""

    name: str
    source: str
    targets: tuple[str, ...]
    patches: PatchConfig = field(default_factory=PatchConfig)
    translator: TranslatorConfig = field(default_factory=TranslatorConfig)
    inpaint: InpaintConfig = field(default_factory=InpaintConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    predict: PredictConfig = field(default_factory=PredictConfig)
    simulation: SimulationConfig = field(default_factory=SimulationConfig)


def paper() -> Profile:
    """The paper at its own scale: for a GPU."""
    return Profile("paper", "bbbc039", ("kumar", "tnbc"))


def cpu() -> Profile:
    """Real images with a small network: hours on two cores."""
    return Profile(
        "cpu",
        "bbbc039",
        ("kumar", "tnbc"),
        # ours: 128 px hold 5-10 nuclei and cost a quarter; 4,000 patches are one pass of the detector
        # and up to 1.5 times magnified: the large pale nuclei of Kumar's colon and bladder exceed any of BBBC039
        patches=PatchConfig(size=128, source_count=4_000, target_count=4_000, validation_count=200, scale=(0.5, 1.5)),
        # ours: about 0.4 s an iteration of one core, a third of it for the identity term, which keeps dark nuclei dark
        translator=TranslatorConfig(
            width=16,
            blocks=6,
            discriminator_width=32,
            residual=True,
            crop=96,
            iterations=4_500,
            learning_rate=2e-4,
            checkpoint_every=250,
        ),
        # ours: 4.2 M weights without the discriminators, about 0.35 s an iteration of one core
        network=NetworkConfig(
            depth=18,
            width=32,
            fpn_channels=64,
            groups=8,  # 32 groups of one channel would be instance norm
            anchor_sizes=((12, 16, 24), (32, 48, 64)),  # several at the fine strides: nuclei crowd
            pre_nms=(500, 500),
            post_nms=(200, 300),
            roi_samples=64,
            mask_channels=64,
            mask_convs=2,
            semantic_channels=64,
            discriminator_width=16,
            target_instances=16,
        ),
        # ours: nothing is pretrained, so the learning rate is larger and the gradient's norm is bounded
        train=TrainConfig(iterations=4_000, learning_rate=0.01, clip=10.0, checkpoint_every=250),
        predict=PredictConfig(tile=256, overlap=64, detections=400),
    )


def quick() -> Profile:
    """Simulated microscopy, minutes: shows the mechanism, not the paper's numbers."""
    return Profile(
        "quick",
        "simulated_fluorescence",
        ("simulated_histology",),
        patches=PatchConfig(size=64, source_count=600, target_count=600, validation_count=40),
        translator=TranslatorConfig(
            width=12,
            blocks=3,
            discriminator_width=16,
            residual=True,
            crop=64,
            iterations=1_200,
            learning_rate=5e-4,
            identity_weight=0.0,
            checkpoint_every=100,
        ),
        network=NetworkConfig(
            depth=10,
            width=24,
            fpn_channels=32,
            groups=8,
            anchor_sizes=((12, 20), (28, 40)),
            pre_nms=(200, 300),
            post_nms=(64, 150),
            rpn_samples=128,
            roi_samples=32,
            mask_channels=32,
            mask_convs=2,
            semantic_channels=32,
            discriminator_width=8,
            target_instances=8,
        ),
        train=TrainConfig(iterations=1_200, learning_rate=0.02, warmup=100, clip=10.0, checkpoint_every=200),
        predict=PredictConfig(tile=256, overlap=64, detections=200),
    )


PROFILES = {"quick": quick, "cpu": cpu, "paper": paper}


def profile(name: str) -> Profile:
    """Return a profile by name. Raises UserError for an unknown one."""
    if name not in PROFILES:
        raise UserError(f"unknown profile '{name}'; choose one of {', '.join(PROFILES)}")
    return PROFILES[name]()
