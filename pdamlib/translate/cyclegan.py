"""CycleGAN (Zhu et al., ICCV 2017) as Sec. 3.5 trains it: source patches learn to look like the target."""

from collections.abc import Callable, Iterator
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pdamlib.config import TranslatorConfig
from pdamlib.data.pairs import flipped, flips_at, index_at
from pdamlib.engine.runtime import Runtime
from pdamlib.errors import UserError
from pdamlib.translate.networks import Generator, PatchDiscriminator

SOURCE_STREAM, TARGET_STREAM = 0, 1


def to_tensor(images: NDArray[np.uint8]) -> Tensor:
    """Return float (B, 3, H, W) in -1..1 of uint8 images (B, H, W, 3)."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def to_images(tensor: Tensor) -> NDArray[np.uint8]:
    """Return uint8 images (B, H, W, 3) of float (B, 3, H, W) in -1..1."""
    scaled = tensor.float().add(1).mul(127.5).round().clamp(0, 255)
    return scaled.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def rate_factor(iteration: int, iterations: int) -> float:
    """Return the share of the learning rate: 1 for the first half, then falling linearly to 0 (Sec. 3.5)."""
    return min(1.0, 2 * (1 - iteration / iterations))


class ImagePool:
    """The last `size` generated images; a discriminator is shown an old one half of the time."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.images: list[Tensor] = []

    def swap(self, image: Tensor) -> Tensor:
        """Return the image (1, 3, H, W) itself or, with probability 1/2 once the pool is full, an older one."""
        if not self.size:
            return image
        if len(self.images) < self.size:
            self.images.append(image.detach().clone())
            return image
        if torch.rand(()) < 0.5:
            return image
        slot = int(torch.randint(self.size, ()))
        old, self.images[slot] = self.images[slot], image.detach().clone()
        return old


class CycleGAN:
    """Two generators and two discriminators in training; a `Task` of the loop in pdamlib.engine.fit.

    source, target: uint8 (N, S, S, 3), memory-mapped. The seed fixes weights, order and crops.
    Raises UserError for a crop that is larger than the patches, under 24 px or no multiple of 4.
    """

    def __init__(
        self,
        config: TranslatorConfig,
        source: NDArray[np.uint8],
        target: NDArray[np.uint8],
        seed: int,
        runtime: Runtime,
    ) -> None:
        largest = min(source.shape[1], target.shape[1])
        if not 24 <= config.crop <= largest or config.crop % 4:
            raise UserError(
                f"translator.crop is {config.crop}; give a multiple of 4 from 24 to {largest}, a patch's size"
            )
        torch.manual_seed(seed)
        self.config, self.seed, self.runtime = config, seed, runtime
        self.data = {SOURCE_STREAM: source, TARGET_STREAM: target}

        def generator() -> Generator:
            return Generator(config.width, config.blocks, config.residual)

        self.networks = nn.ModuleDict(
            {
                "to_target": generator(),
                "to_source": generator(),
                "judge_target": PatchDiscriminator(config.discriminator_width),
                "judge_source": PatchDiscriminator(config.discriminator_width),
            }
        ).to(runtime.device)
        self.pools = {"target": ImagePool(config.pool), "source": ImagePool(config.pool)}
        self.optimizers = {
            "generators": self._adam("to_target", "to_source"),
            "judges": self._adam("judge_target", "judge_source"),
        }

    def _adam(self, *names: str) -> torch.optim.Adam:
        weights = chain.from_iterable(self.networks[name].parameters() for name in names)
        return torch.optim.Adam(weights, self.config.learning_rate, betas=(0.5, 0.999))

    def crop_at(self, stream: int, iteration: int) -> Tensor:
        """Return the crop (1, 3, C, C) of a stream at an iteration, randomly mirrored."""
        images, crop = self.data[stream], self.config.crop
        image = images[index_at(self.seed, stream, len(images), iteration)]
        rng = np.random.default_rng((self.seed, stream, iteration))
        top, left = rng.integers(image.shape[0] - crop + 1, size=2)
        window = flipped(image[top : top + crop, left : left + crop], flips_at(self.seed, stream, iteration))
        return to_tensor(window[None]).to(self.runtime.device)

    def step(self, iteration: int) -> dict[str, Tensor]:
        """Update generators, then discriminators, on one source and one target crop; return the losses."""
        source, target = (self.crop_at(stream, iteration) for stream in (SOURCE_STREAM, TARGET_STREAM))
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = self.config.learning_rate * rate_factor(iteration, self.config.iterations)
        losses, fake_target, fake_source = self._update_generators(source, target)
        losses |= self._update_judges(source, target, fake_target, fake_source)
        return {name: loss.detach() for name, loss in losses.items()}

    def _update_generators(self, source: Tensor, target: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        nets, config = self.networks, self.config
        self._judges_learn(False)
        with self.runtime.autocast():
            fake_target, fake_source = nets["to_target"](source), nets["to_source"](target)
            cycle = l1(nets["to_source"](fake_target), source) + l1(nets["to_target"](fake_source), target)
            losses = {
                "fool_target": square_error(nets["judge_target"](fake_target), 1),
                "fool_source": square_error(nets["judge_source"](fake_source), 1),
                "cycle": config.cycle_weight * cycle,
            }
            if config.identity_weight:
                identity = l1(nets["to_target"](target), target) + l1(nets["to_source"](source), source)
                losses["identity"] = config.cycle_weight * config.identity_weight * identity
        self._descend("generators", sum(losses.values(), torch.zeros((), device=source.device)))
        return losses, fake_target.detach(), fake_source.detach()

    def _update_judges(
        self, source: Tensor, target: Tensor, fake_target: Tensor, fake_source: Tensor
    ) -> dict[str, Tensor]:
        self._judges_learn(True)
        with self.runtime.autocast():
            losses = {
                f"judge_{domain}": 0.5 * (square_error(judge(real), 1) + square_error(judge(pool.swap(fake)), 0))
                for domain, real, fake in (("target", target, fake_target), ("source", source, fake_source))
                for judge, pool in ((self.networks[f"judge_{domain}"], self.pools[domain]),)
            }
        self._descend("judges", losses["judge_target"] + losses["judge_source"])
        return losses

    def _judges_learn(self, flag: bool) -> None:
        """Without this the generators' backward pass would compute the discriminators' weight gradients in vain."""
        for name in ("judge_target", "judge_source"):
            self.networks[name].requires_grad_(flag)

    def _descend(self, name: str, loss: Tensor) -> None:
        self.optimizers[name].zero_grad(set_to_none=True)
        loss.backward()
        self.optimizers[name].step()

    def state(self) -> dict:
        """Return networks, optimisers and image pools."""
        return {
            "networks": self.networks.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "pools": {name: pool.images for name, pool in self.pools.items()},
        }

    def load(self, state: dict) -> None:
        """Take back what `state` returned."""
        self.networks.load_state_dict(state["networks"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        for name, pool in self.pools.items():
            pool.images = [image.to(self.runtime.device) for image in state["pools"][name]]


def l1(first: Tensor, second: Tensor) -> Tensor:
    """Return the mean absolute difference, a scalar."""
    return (first - second).abs().mean()


def square_error(scores: Tensor, wanted: float) -> Tensor:
    """Return the least-squares GAN loss of discriminator scores of any shape, a scalar."""
    return (scores - wanted).square().mean()


@torch.inference_mode()
def translate(
    generator: nn.Module, batches: Iterator[NDArray[np.uint8]], runtime: Runtime, tick: Callable[[int], object]
) -> Iterator[NDArray[np.uint8]]:
    """Yield each batch of images (B, S, S, 3) translated, same shape; `tick` is told how many are done."""
    generator = generator.to(runtime.device).eval()
    for images in batches:
        with runtime.autocast():
            out = generator(to_tensor(images).to(runtime.device))
        tick(len(images))
        yield to_images(out)
