"""CycleGAN in training: who learns when, the schedule, the image pools, and that stopping changes nothing."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from pdamlib.config import TranslatorConfig
from pdamlib.engine.fit import fit
from pdamlib.engine.runtime import Runtime
from pdamlib.errors import UserError
from pdamlib.translate.cyclegan import (
    SOURCE_STREAM,
    TARGET_STREAM,
    CycleGAN,
    ImagePool,
    l1,
    rate_factor,
    square_error,
    to_images,
    to_tensor,
    translate,
)
from pdamlib.translate.networks import Generator

TINY = TranslatorConfig(
    width=4, blocks=1, discriminator_width=4, crop=32, iterations=6, learning_rate=1e-3, pool=2, checkpoint_every=3
)


def patches(seed: int, count: int = 3, size: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)


def tiny(config: TranslatorConfig = TINY, seed: int = 0, precision: str = "fp32") -> CycleGAN:
    return CycleGAN(config, patches(1), patches(2, count=4), seed, Runtime(precision=precision))


def weights(gan: CycleGAN, name: str) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in gan.networks[name].parameters()])


def assert_same(first: Any, second: Any, where: str = "state") -> None:
    """Compare nested dicts and lists, tensors to the last bit."""
    assert type(first) is type(second), where
    if isinstance(first, dict):
        assert first.keys() == second.keys(), where
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), where
    elif isinstance(first, dict | list | tuple):
        assert len(first) == len(second), where
        for key in first if isinstance(first, dict) else range(len(first)):
            assert_same(first[key], second[key], f"{where}.{key}")
    else:
        assert first == second, where


def test_images_survive_the_way_to_a_tensor_and_back():
    image = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    tensor = to_tensor(image)
    assert tensor.shape == (1, 3, 16, 16) and tensor.dtype == torch.float32
    assert tensor.min() == -1 and tensor.max() == 1
    np.testing.assert_array_equal(to_images(tensor), image)


def test_to_images_clips_and_rounds():
    tensor = torch.tensor([-1.5, -1.0, 0.0, 1.0, 2.0]).view(1, 1, 1, 5).expand(1, 3, 1, 5)
    assert to_images(tensor)[0, 0, :, 0].tolist() == [0, 0, 128, 255, 255]


def test_the_learning_rate_falls_in_the_second_half():
    assert [rate_factor(iteration, 400) for iteration in (0, 100, 200)] == [1, 1, 1]
    assert rate_factor(300, 400) == 0.5 and rate_factor(400, 400) == 0
    assert 0 < rate_factor(399, 400) < 0.01


def test_the_optimizers_follow_the_schedule():
    gan = tiny(replace(TINY, iterations=8))
    for iteration, share in ((0, 1), (4, 1), (6, 0.5), (7, 0.25)):
        gan.step(iteration)
        rates = {group["lr"] for optimizer in gan.optimizers.values() for group in optimizer.param_groups}
        assert rates == {share * 1e-3}


def test_losses_literally():
    assert l1(torch.tensor([1.0, -2.0]), torch.tensor([0.0, 2.0])).item() == 2.5
    assert square_error(torch.tensor([1.0, 3.0]), 1).item() == 2.0
    assert square_error(torch.tensor([1.0, 3.0]), 0).item() == 5.0


def pictures(*values: float) -> list[torch.Tensor]:
    return [torch.full((1, 3, 2, 2), float(value)) for value in values]


def test_a_pool_gives_back_what_fills_it():
    pool = ImagePool(2)
    for image in pictures(1, 2):
        assert torch.equal(pool.swap(image), image)
    assert [image.mean().item() for image in pool.images] == [1, 2]


def test_a_full_pool_gives_an_old_image_half_of_the_time_and_keeps_the_new_one_instead():
    torch.manual_seed(0)
    pool = ImagePool(3)
    old = 0
    for number, image in enumerate(pictures(*range(1000))):
        before = sorted(kept.mean().item() for kept in pool.images)
        given = pool.swap(image).mean().item()
        after = sorted(kept.mean().item() for kept in pool.images)
        if number < 3:
            continue
        assert len(after) == 3
        if given == number:
            assert after == before
        else:
            old += 1
            assert sorted([*after, given]) == sorted([*before, number])
    assert 440 < old < 560


def test_a_pool_keeps_copies_without_history():
    pool = ImagePool(1)
    image = torch.ones(1, 3, 2, 2, requires_grad=True)
    pool.swap(image * 2)
    assert not pool.images[0].requires_grad
    kept = pictures(5)[0]
    pool = ImagePool(1)
    pool.swap(kept)
    kept.zero_()
    assert pool.images[0].mean() == 5


def test_a_pool_of_size_0_is_no_pool():
    pool = ImagePool(0)
    for image in pictures(1, 2, 3):
        assert pool.swap(image) is image
    assert not pool.images


def test_a_crop_is_part_of_its_patch_and_depends_on_seed_stream_and_iteration_alone():
    gan, again = tiny(), tiny()
    for iteration in range(8):
        again.crop_at(TARGET_STREAM, 7 - iteration)
        crop = gan.crop_at(SOURCE_STREAM, iteration)
        assert crop.shape == (1, 3, 32, 32)
        assert torch.equal(crop, again.crop_at(SOURCE_STREAM, iteration))
        found = to_images(crop)[0]
        held = {pixel.tobytes() for patch in gan.data[SOURCE_STREAM] for row in patch for pixel in row}
        assert {pixel.tobytes() for row in found for pixel in row} <= held
    assert not torch.equal(gan.crop_at(SOURCE_STREAM, 0), tiny(seed=1).crop_at(SOURCE_STREAM, 0))


def test_a_crop_as_large_as_the_patch_is_the_patch_mirrored_at_most():
    gan = tiny(replace(TINY, crop=40))
    ways = {way.tobytes() for patch in gan.data[0] for row in (patch, patch[::-1]) for way in (row, row[:, ::-1])}
    assert {to_images(gan.crop_at(SOURCE_STREAM, iteration))[0].tobytes() for iteration in range(12)} <= ways


@pytest.mark.parametrize("crop", [20, 34, 44])
def test_a_crop_that_cannot_be_is_refused(crop: int):
    with pytest.raises(UserError, match=f"translator.crop is {crop}; give a multiple of 4 from 24 to 40,"):
        tiny(replace(TINY, crop=crop))


def test_the_seed_fixes_the_weights():
    assert torch.equal(weights(tiny(), "to_target"), weights(tiny(), "to_target"))
    assert not torch.equal(weights(tiny(), "to_target"), weights(tiny(seed=1), "to_target"))
    assert not torch.equal(weights(tiny(), "to_target"), weights(tiny(), "to_source"))


@pytest.mark.parametrize(("share", "names"), [(0.5, {"identity"}), (0.0, set())])
def test_a_step_names_its_losses_and_changes_all_networks(share: float, names: set[str]):
    gan = tiny(replace(TINY, identity_weight=share))
    before = {name: weights(gan, name) for name in gan.networks}
    losses = gan.step(0)
    assert losses.keys() == {"fool_target", "fool_source", "cycle", "judge_target", "judge_source"} | names
    assert all(loss.shape == () and loss.isfinite() and not loss.requires_grad for loss in losses.values())
    for name, old in before.items():
        assert not torch.equal(weights(gan, name), old), name


def test_the_cycle_and_identity_terms_weigh_as_told():
    heavy, light = tiny(), tiny(replace(TINY, cycle_weight=1.0))
    first, second = heavy.step(0), light.step(0)  # equal weights, so only the factor differs
    assert first["cycle"].item() == pytest.approx(10 * second["cycle"].item())
    assert first["identity"].item() == pytest.approx(10 * second["identity"].item())
    assert first["fool_target"].item() == pytest.approx(second["fool_target"].item())


def gradients(gan: CycleGAN, *names: str) -> list[torch.Tensor | None]:
    return [parameter.grad for name in names for parameter in gan.networks[name].parameters()]


def test_judges_get_no_gradient_while_generators_learn_and_the_reverse():
    gan = tiny()
    source, target = gan.crop_at(SOURCE_STREAM, 0), gan.crop_at(TARGET_STREAM, 0)
    judges = [weights(gan, name) for name in ("judge_target", "judge_source")]
    _, *fakes = gan._update_generators(source, target)
    assert all(gradient is None for gradient in gradients(gan, "judge_target", "judge_source"))
    assert_same([weights(gan, name) for name in ("judge_target", "judge_source")], judges)
    assert all(gradient is not None for gradient in gradients(gan, "to_target", "to_source"))
    kept = [gradient.clone() for gradient in gradients(gan, "to_target", "to_source")]
    generators = [weights(gan, name) for name in ("to_target", "to_source")]
    gan._update_judges(source, target, *fakes)
    assert_same(gradients(gan, "to_target", "to_source"), kept)
    assert_same([weights(gan, name) for name in ("to_target", "to_source")], generators)
    assert all(gradient is not None for gradient in gradients(gan, "judge_target", "judge_source"))


def test_each_judge_is_shown_what_the_generator_of_its_domain_made():
    gan, fresh = tiny(), tiny()
    gan.step(0)
    for domain, stream in (("target", SOURCE_STREAM), ("source", TARGET_STREAM)):
        with torch.no_grad():
            made = fresh.networks[f"to_{domain}"](fresh.crop_at(stream, 0))
        torch.testing.assert_close(gan.pools[domain].images[0], made)


def test_judges_learn_to_tell_real_from_generated():
    gan = tiny(replace(TINY, learning_rate=5e-3, iterations=1000))
    source, target = gan.crop_at(SOURCE_STREAM, 0), gan.crop_at(TARGET_STREAM, 0)
    for optimizer in gan.optimizers.values():
        optimizer.param_groups[0]["lr"] = 5e-3
    with torch.no_grad():
        fakes = gan.networks["to_target"](source), gan.networks["to_source"](target)
    losses = [gan._update_judges(source, target, *fakes) for _ in range(30)]
    for name in ("judge_target", "judge_source"):
        assert losses[-1][name] < losses[0][name] / 3
        with torch.no_grad():
            real, fake = (target, fakes[0]) if name == "judge_target" else (source, fakes[1])
            assert gan.networks[name](real).mean() > gan.networks[name](fake).mean() + 0.3


def test_half_precision_learns_in_full_precision_weights():
    gan = tiny(precision="bf16")
    before = weights(gan, "to_target")
    losses = gan.step(0)
    assert all(loss.isfinite() for loss in losses.values())
    after = weights(gan, "to_target")
    assert after.dtype == torch.float32 and not torch.equal(before, after)
    exact = tiny().step(0)
    assert losses["cycle"].item() == pytest.approx(exact["cycle"].item(), rel=0.05)
    out = list(translate(gan.networks["to_target"], iter([patches(1)]), gan.runtime, lambda done: None))
    assert out[0].dtype == np.uint8


class Stopped(Exception):
    """Stands for a killed process."""


def test_a_training_that_was_stopped_ends_as_an_unbroken_one_to_the_last_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def train(gan: CycleGAN, folder: Path) -> torch.Tensor:
        fit(gan, 6, folder, key="k", checkpoint_every=3, log_every=1)
        return torch.get_rng_state()

    unbroken = tiny()
    random = train(unbroken, tmp_path / "unbroken")

    step = CycleGAN.step

    def fails(gan: CycleGAN, iteration: int) -> dict[str, torch.Tensor]:
        if iteration == 4:  # one iteration is lost: it comes after the checkpoint
            raise Stopped
        return step(gan, iteration)

    with monkeypatch.context() as patch:
        patch.setattr(CycleGAN, "step", fails)
        with pytest.raises(Stopped):
            train(tiny(), tmp_path / "resumed")
    resumed = tiny()
    torch.manual_seed(99)  # whatever the new process did before
    done: list[int] = []
    monkeypatch.setattr(CycleGAN, "step", lambda gan, iteration: done.append(iteration) or step(gan, iteration))
    assert torch.equal(train(resumed, tmp_path / "resumed"), random)
    assert done == [3, 4, 5]
    assert_same(resumed.state(), unbroken.state())
    assert len(resumed.pools["target"].images) == 2
    logs = [pd.read_csv(tmp_path / name / "log.csv").drop(columns="seconds") for name in ("unbroken", "resumed")]
    pd.testing.assert_frame_equal(*logs, check_exact=True)
    assert logs[0]["iteration"].tolist() == [1, 2, 3, 4, 5, 6]


def test_a_state_brings_another_object_to_the_same_place():
    first, second = tiny(), tiny(seed=5)
    for iteration in range(3):
        first.step(iteration)
    second.load(first.state())
    assert_same(second.state(), first.state())


def test_translate_gives_every_patch_back_in_order_and_size():
    generator = Generator(4, 1, residual=True)
    torch.nn.init.zeros_(generator.body[-1].weight)  # tanh of the input: order shows
    images = np.stack([np.full((32, 32, 3), value, np.uint8) for value in (30, 90, 150, 210, 250)])
    ticks: list[int] = []
    parts = list(translate(generator, iter([images[:2], images[2:4], images[4:]]), Runtime(), ticks.append))
    assert ticks == [2, 2, 1] and [part.shape for part in parts] == [(2, 32, 32, 3), (2, 32, 32, 3), (1, 32, 32, 3)]
    found = np.concatenate(parts)
    assert found.dtype == np.uint8 and not generator.training
    expected = np.rint((np.tanh(images / 127.5 - 1) + 1) * 127.5)
    np.testing.assert_allclose(found, expected, atol=1)


def test_translate_leaves_no_graph_and_reads_memory_maps(tmp_path: Path):
    np.save(tmp_path / "images.npy", patches(0))
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    (out,) = translate(Generator(4, 1), iter([mapped]), Runtime(), lambda done: None)
    assert out.shape == mapped.shape
