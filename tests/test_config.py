"""The settings: frozen, complete, and the paper's where the paper gives them."""

from dataclasses import FrozenInstanceError, fields, is_dataclass, replace

import pytest
import torch

from pdamlib.config import METHODS, PROFILES, Profile, TrainConfig, cpu, method, paper, profile, quick
from pdamlib.data.splits import SPLITS
from pdamlib.errors import UserError
from pdamlib.methods.pdam import build_network

profiles = pytest.mark.parametrize("name", PROFILES)


def parts(whole: Profile) -> list[object]:
    return [whole, *(part for field in fields(whole) if is_dataclass(part := getattr(whole, field.name)))]


@profiles
def test_no_setting_can_be_changed_in_place(name: str):
    assert len(parts(profile(name))) == 8
    for part in parts(profile(name)):
        for field in fields(part):
            with pytest.raises(FrozenInstanceError):
                setattr(part, field.name, 1)


@pytest.mark.parametrize("row", METHODS)
def test_no_method_can_be_changed_in_place(row: str):
    with pytest.raises(FrozenInstanceError):
        method(row).reweight = True


def test_a_variant_leaves_the_original_alone():
    variant = replace(cpu(), train=replace(cpu().train, iterations=7))
    assert variant.train.iterations == 7
    assert variant.network == cpu().network
    assert cpu().train.iterations != 7


@profiles
@pytest.mark.parametrize("row", METHODS)
def test_every_profile_builds_the_network_of_every_method(name: str, row: str):
    with torch.device("meta"):  # shapes without numbers: 60 million weights cost nothing
        network = build_network(method(row), profile(name).network)
    assert sorted(network.discriminators) == sorted(method(row).levels)
    assert (network.semantic is not None) == method(row).semantic


@profiles
def test_the_settings_of_a_profile_go_together(name: str):
    whole = profile(name)
    assert whole.name == name
    assert whole.source in SPLITS
    assert whole.targets
    assert set(whole.targets) <= set(SPLITS)
    assert whole.patches.size % 32 == 0  # the stride of P5
    assert whole.translator.crop <= whole.patches.size
    assert whole.predict.overlap < whole.predict.tile
    assert list(whole.predict.scores) == sorted(set(whole.predict.scores))
    assert len({len(sizes) for sizes in whole.network.anchor_sizes}) == 1  # torchvision's heads share one shape
    assert whole.train.warmup < whole.train.decay_at * whole.train.iterations
    assert max(whole.patches.minimum_nuclei, whole.patches.smallest) > 0


def test_profiles_differ_in_their_data():
    assert cpu().source == paper().source == "bbbc039"
    assert cpu().targets == paper().targets == ("kumar", "tnbc")
    assert (quick().source, quick().targets) == ("simulated_fluorescence", ("simulated_histology",))


def test_training_is_the_papers():
    """Sec. 3.5: the detector."""
    train = paper().train
    assert (train.learning_rate, train.momentum, train.weight_decay) == (0.002, 0.9, 0.001)
    assert (train.warmup, train.decay_at, train.cap) == (500, 0.75, 2.0)
    assert (train.reweighting, train.adversarial, train.clip) == ("paper", "loss", None)
    assert train == TrainConfig()


def test_network_is_the_papers():
    """Sec. 3.1 and 3.5, Tables 1 and 2."""
    network = paper().network
    assert (network.depth, network.fpn_channels, network.mask_channels) == (101, 256, 256)
    assert (network.groups, network.discriminator_width) == (32, 64)


def test_patches_are_the_papers():
    """Sec. 4.2."""
    patches = paper().patches
    assert (patches.size, patches.source_count, patches.target_count) == (256, 10_000, 10_000)
    assert (patches.minimum_nuclei, patches.invert) == (3, True)


def test_the_translator_is_the_papers():
    """Sec. 3.5, and Zhu et al. for what it takes over."""
    translator = paper().translator
    assert (translator.learning_rate, translator.cycle_weight, translator.pool) == (0.0001, 10.0, 50)
    assert (translator.width, translator.blocks, translator.residual) == (64, 9, False)


def test_inpainting_thresholds_hematoxylin():
    assert (paper().inpaint.channel, paper().inpaint.radius) == ("hematoxylin", 3)


def test_the_rows_of_the_tables():
    assert all(row == known.id for row, known in METHODS.items())
    pdam = method("cyc_pdam")
    assert (pdam.source, pdam.levels, pdam.semantic, pdam.reweight) == ("inpainted", ("img", "sem", "ins"), True, True)
    plain = method("no_adaptation")
    assert (plain.source, plain.levels, plain.semantic, plain.reweight) == ("patches", (), False, False)


@pytest.mark.parametrize(("ask", "known"), [(profile, PROFILES), (method, METHODS)])
def test_an_unknown_name_is_answered_with_the_choices(ask, known):
    with pytest.raises(UserError) as caught:
        ask("papr")
    assert "'papr'" in str(caught.value)
    assert ", ".join(known) in str(caught.value)
    assert "\n" not in str(caught.value)
