"""The method: which terms it has, how they are weighed, what it looks at, and that it learns."""

import math
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor, nn

from pdamlib.adapt.losses import SOURCE, TARGET, total_loss
from pdamlib.config import TrainConfig, method, paper
from pdamlib.engine.runtime import Runtime
from pdamlib.errors import UserError
from pdamlib.labels import nucleus_boxes
from pdamlib.methods.pdam import PDAM, image_tensor, learning_rate_factor
from pdamlib.models.panoptic import TrainingOutputs

TASKS = ["rpn_objectness", "rpn_box", "det_class", "det_box", "det_mask"]


# Eq. 4: the terms


def test_the_proposed_method_has_exactly_the_terms_of_eq_4():
    shown = tiny.task("cyc_pdam").step(0)
    assert sorted(shown) == sorted(
        [*TASKS, "sem_seg", "img_da", "sem_da", "ins_da", "weight_img", "weight_sem", "weight_ins", "weight_da"]
    )
    assert all(value.shape == () and not value.requires_grad for value in shown.values())


def test_without_adaptation_there_is_mask_rcnn_alone():
    task = tiny.task("no_adaptation")
    assert sorted(task.step(0)) == sorted(TASKS)
    assert task.network.semantic is None
    assert len(task.network.discriminators) == 0


@pytest.mark.parametrize("level", ["img", "ins"])
def test_a_row_in_between_has_the_terms_of_its_levels(level: str):
    row = replace(method("cyc_pdam"), levels=(level,), semantic=False, reweight=False)
    task = PDAM(row, tiny.NETWORK, tiny.training(), tiny.squares(2), tiny.squares(2).images, 0, Runtime())
    assert sorted(task.step(0)) == sorted([*TASKS, f"{level}_da", "weight_da"])


def test_both_domains_enter_the_domain_losses():
    """With equal patches in both domains no discriminator can do better than chance, on average of the two."""
    source, target = tiny.squares(1), tiny.squares(1).images
    task = PDAM(method("cyc_pdam"), tiny.NETWORK, tiny.training(), source, target, 0, Runtime())
    shown = task.step(0)
    for level in ("img", "sem"):
        assert float(shown[f"{level}_da"]) > math.log(2) - 0.02


# Eq. 3, 4, 5: the weights


def logits(p_source: float, shape: tuple[int, ...] = (1, 2, 3, 3)) -> Tensor:
    """Return logits that say the same probability of the source everywhere."""
    values = torch.zeros(shape)
    values[:, SOURCE] = math.log(p_source / (1 - p_source))
    return values


def hand_made(
    img: tuple[float, float] = (0.75, 0.5), ins: tuple[float, float] = (0.1, 0.25), **settings: object
) -> tuple[PDAM, TrainingOutputs]:
    """Return a task whose discriminators say what their input says, and features that say (source, target) of it.

    The semantic features are undecided everywhere, so both channels of their entropy are equal.
    """
    task = tiny.task(config=tiny.training(**settings))
    task.network.discriminators = nn.ModuleDict({level: nn.Identity() for level in ("img", "sem", "ins")})
    outputs = TrainingOutputs(
        losses={name: torch.tensor(float(place)) for place, name in enumerate([*TASKS, "sem_seg"], start=1)},
        pyramid_source={"p5": logits(img[0])},
        pyramid_target={"p5": logits(img[1])},
        semantic_source=torch.zeros(1, 2, 4, 4),
        semantic_target=torch.zeros(1, 2, 4, 4),
        instance_source=logits(ins[0], (6, 2)),
        instance_target=logits(ins[1], (4, 2)),
    )
    return task, outputs


def test_the_weights_are_those_of_eq_3_and_5():
    task, outputs = hand_made()
    _, weights = task.adapt(outputs, progress=0.4)
    assert weights.keys() == {"img", "sem", "ins", "da"}
    assert float(weights["img"]) == pytest.approx(0.25 / 0.75)
    assert float(weights["sem"]) == pytest.approx(1)
    assert float(weights["ins"]) == pytest.approx(2)  # 0.9 / 0.1, but at most beta
    assert weights["da"] == 0.4


def test_the_cap_is_a_setting():
    task, outputs = hand_made(cap=5.0)
    assert float(task.adapt(outputs, 0)[1]["ins"]) == pytest.approx(5)


def test_the_domain_losses_are_the_mean_of_both_domains():
    task, outputs = hand_made()
    losses, _ = task.adapt(outputs, 0.4)
    assert float(losses["img_da"]) == pytest.approx(-(math.log(0.75) + math.log(1 - 0.5)) / 2)
    assert float(losses["sem_da"]) == pytest.approx(math.log(2))
    assert float(losses["ins_da"]) == pytest.approx(-(math.log(0.1) + math.log(1 - 0.25)) / 2)


def test_the_total_is_eq_4_by_hand():
    task, outputs = hand_made()
    losses, weights = task.adapt(outputs, progress=0.4)
    da = float(losses["img_da"] + losses["sem_da"] + losses["ins_da"])
    # rpn 1 + 2, detection 3 + 4 + 5, semantic 6
    expected = (1 / 3) * (1 + 2) + 2 * (3 + 4 + 5) + 1 * 6 + 0.4 * da
    assert float(total_loss(losses, weights)) == pytest.approx(expected)


def test_without_reweighting_every_task_counts_fully():
    task, outputs = hand_made()
    task.method = replace(task.method, reweight=False)
    assert task.adapt(outputs, 0.4)[1] == {"da": 0.4}


def test_a_target_without_any_detection_adds_nothing():
    task, outputs = hand_made()
    outputs = replace(outputs, instance_target=torch.zeros(0, 2))
    assert float(task.adapt(outputs, 0.4)[0]["ins_da"]) == pytest.approx(-math.log(0.1) / 2)


def test_a_step_shows_the_weights_it_used():
    shown = tiny.task(config=tiny.training(10)).step(5)
    assert float(shown["weight_da"]) == pytest.approx(2 / (1 + math.exp(-5)) - 1)
    assert 0 <= float(shown["weight_img"]) <= 2


# the switches


def test_the_released_reweighting():
    task, outputs = hand_made(img=(0.75, 0.5), ins=(0.9, 0.5), reweighting="released")
    _, weights = task.adapt(outputs, 0.4)
    assert float(weights["img"]) == pytest.approx(1.5)  # mean of 1/3 and 3, clamped
    assert float(weights["sem"]) == pytest.approx(1)
    assert float(weights["ins"]) == pytest.approx(0.5)  # 1/9, clamped from below: p_source alone


def test_alpha_weighs_the_losses_or_the_reversed_gradient():
    task, outputs = hand_made()
    assert task.adapt(outputs, 0.25)[1]["da"] == 0.25
    task, outputs = hand_made(adversarial="reversal")
    assert task.adapt(outputs, 0.25)[1]["da"] == 1.0


@pytest.mark.parametrize(("adversarial", "scale"), [("loss", 1.0), ("reversal", 0.25)])
def test_the_gradient_that_reaches_the_features_is_reversed(adversarial: str, scale: float):
    task, outputs = hand_made(adversarial=adversarial)
    features = outputs.instance_source.requires_grad_()
    losses, _ = task.adapt(outputs, 0.25)
    losses["ins_da"].backward()
    # d/dz of -log p_source, halved for two domains, over six RoIs: (p - 1) for the source channel
    expected = torch.zeros(6, 2)
    expected[:, SOURCE], expected[:, TARGET] = 0.1 - 1, 0.9
    torch.testing.assert_close(features.grad, -scale * expected / 6 / 2)


@pytest.mark.parametrize(("adversarial", "learns"), [("loss", False), ("reversal", True)])
def test_discriminators_learn_from_the_start_only_under_reversal(adversarial: str, learns: bool):
    task = tiny.task(config=tiny.training(adversarial=adversarial))
    task.step(0)  # alpha_da is 0
    for judge in task.network.discriminators.values():
        assert any(bool(weight.grad.any()) for weight in judge.parameters()) == learns


@pytest.mark.parametrize(
    ("setting", "choices"), [("reweighting", "paper or released"), ("adversarial", "loss or reversal")]
)
def test_an_unknown_switch_is_answered_with_the_choices(setting: str, choices: str):
    with pytest.raises(UserError, match=f"unknown {setting} 'papr'; choose {choices}"):
        tiny.task(config=tiny.training(**{setting: "papr"}))


# Sec. 3.5: the learning rate


@pytest.mark.parametrize(
    ("iteration", "factor"),
    [
        (0, 1 / 500),
        (249, 0.5),
        (498, 499 / 500),
        (499, 1),
        (500, 1),
        (17_999, 1),
        (18_000, 0.1),
        (23_999, 0.1),
    ],
)
def test_the_papers_learning_rate_warms_up_and_falls_to_a_tenth(iteration: int, factor: float):
    assert learning_rate_factor(iteration, paper().train) == pytest.approx(factor)


def test_without_warm_up_training_begins_at_full_rate():
    config = TrainConfig(iterations=4, warmup=0)
    assert [learning_rate_factor(iteration, config) for iteration in range(4)] == pytest.approx([1, 1, 1, 0.1])


def test_the_step_uses_it():
    task = tiny.task(config=tiny.training(8, warmup=4, learning_rate=0.02))
    for iteration, rate in ((0, 0.005), (3, 0.02), (6, 0.002)):
        task.step(iteration)
        assert [group["lr"] for group in task.optimizer.param_groups] == pytest.approx([rate])


@pytest.mark.parametrize(("clip", "bounded"), [(None, False), (1e-3, True)])
def test_the_gradient_is_bounded_only_when_asked_for(clip: float | None, bounded: bool):
    task = tiny.task(config=tiny.training(clip=clip))
    task.step(0)
    norms = [weight.grad.norm() for weight in task.network.parameters() if weight.grad is not None]
    assert (float(torch.stack(norms).norm()) <= 1.01e-3) == bounded


# what it looks at


class Forbidden:
    """Patches that may not be looked at."""

    def __getitem__(self, index: int) -> object:
        raise AssertionError("a target patch was read")

    def __len__(self) -> int:
        raise AssertionError("target patches were counted")


@pytest.mark.parametrize("target", [None, Forbidden()], ids=["absent", "forbidden"])
def test_without_adaptation_the_target_is_never_looked_at(target: object):
    task = PDAM(method("no_adaptation"), tiny.NETWORK, tiny.training(), tiny.squares(2), target, 0, Runtime())
    task.step(0)
    assert task.target_at(0) is None


def test_the_same_weights_come_with_and_without_a_target_that_is_not_used():
    with_target, without = (
        PDAM(method("no_adaptation"), tiny.NETWORK, tiny.training(), tiny.squares(2), target, 0, Runtime())
        for target in (tiny.squares(2).images, None)
    )
    for iteration in range(2):
        # both draw from torch's one stream of random numbers
        torch.manual_seed(iteration)
        one = with_target.step(iteration)
        torch.manual_seed(iteration)
        assert one == without.step(iteration)


def test_a_source_sample_is_the_patch_and_its_labels_mirrored_alike():
    task = tiny.task()
    seen = set()
    for iteration in range(20):
        image, target, semantic = task.source_at(iteration)
        assert (image.shape, image.dtype) == ((3, 64, 64), torch.float32)
        assert (target["masks"].shape, target["masks"].dtype) == ((4, 64, 64), torch.uint8)
        assert target["labels"].tolist() == [1, 1, 1, 1]
        assert torch.equal(semantic, target["masks"].amax(dim=0).long())
        boxes = np.concatenate([nucleus_boxes(mask.numpy()) for mask in target["masks"]])
        np.testing.assert_array_equal(target["boxes"].numpy(), boxes)
        assert image[:, semantic == 1].max() < 0.55 < image[:, semantic == 0].min()  # dark nuclei, bright ground
        seen.add(tuple(boxes[:, :2].min(axis=0)))
    assert len(seen) == 4  # the corner of all nuclei: as it is, and mirrored either way or both


def test_every_pass_shows_each_patch_once():
    source = tiny.squares(5)
    source.images[:] = np.arange(5)[:, None, None, None]
    task = PDAM(method("no_adaptation"), tiny.NETWORK, tiny.training(), source, None, 0, Runtime())
    shown = [round(float(task.source_at(iteration)[0].mean() * 255)) for iteration in range(15)]
    assert [sorted(shown[start : start + 5]) for start in (0, 5, 10)] == [[0, 1, 2, 3, 4]] * 3
    assert shown[:5] != shown[5:10] or shown[5:10] != shown[10:]


def test_an_image_becomes_numbers_from_0_to_1():
    image = np.zeros((2, 3, 3), np.uint8)
    image[1, 2] = (255, 51, 0)
    tensor = image_tensor(image)
    assert (tensor.shape, tensor.dtype) == ((3, 2, 3), torch.float32)
    assert tensor[:, 1, 2].tolist() == pytest.approx([1, 0.2, 0])


# learning


def test_the_seed_decides_everything():
    first, second, other = (
        [float(loss) for task in [tiny.task(seed=seed)] for i in range(3) for loss in task.step(i).values()]
        for seed in (1, 1, 2)
    )
    assert first == second
    assert first != other


# small RoIs come from p2, proposals of the tiny network from p2 and p3: without adaptation nobody reads the rest
UNREAD = tuple(f"backbone.fpn.layer_blocks.{level}." for level in (2, 3))


@pytest.mark.parametrize(("method_id", "unread"), [("cyc_pdam", False), ("no_adaptation", True)])
def test_every_part_of_the_network_learns(method_id: str, unread: bool):
    task = tiny.task(method_id)
    before = {name: weight.clone() for name, weight in task.network.named_parameters()}
    for iteration in range(2):  # alpha_da is 0 in the first
        task.step(iteration)
    still = [name for name, weight in task.network.named_parameters() if torch.equal(weight, before[name])]
    assert [name for name in still if not name.startswith(UNREAD)] == []
    assert bool(still) == unread


@pytest.mark.slow
@pytest.mark.parametrize("method_id", ["cyc_pdam", "no_adaptation"])
def test_training_on_two_patches_lowers_the_task_losses(method_id: str):
    task = tiny.task(method_id, tiny.training(60, learning_rate=0.05))
    values = [sum(float(shown[name]) for name in TASKS) for shown in map(task.step, range(60))]
    assert np.mean(values[-5:]) < 0.6 * np.mean(values[:5])


def test_what_is_saved_comes_back():
    task, other = tiny.task(), tiny.task(seed=5)
    for iteration in range(2):
        task.step(iteration)
    other.load(task.state())
    other.seed = task.seed  # the order of patches is no part of the state
    losses = []
    for one in (task, other):
        torch.manual_seed(3)
        losses.append(one.step(2))
    assert losses[0] == losses[1]
