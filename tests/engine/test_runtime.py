"""Device, precision and threads: chosen once, refused when absent."""

from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import tiny
import torch

from pdamlib.engine.runtime import Runtime, choose_runtime
from pdamlib.errors import UserError


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Choosing a runtime sets the threads of the whole process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch):
    """Return what pretends that accelerators are there or not."""

    def pretend(cuda: bool = False, mps: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return pretend


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"device": "gpu"}, "unknown device 'gpu'; choose one of auto, cuda, mps, cpu"),
        ({"precision": "fp16"}, "unknown precision 'fp16'; choose one of fp32, bf16"),
        ({"threads": 0}, "threads is 0; give 1 or more"),
    ],
)
def test_a_setting_that_does_not_exist_is_answered_with_the_choices(arguments: dict, words: str):
    with pytest.raises(UserError) as caught:
        choose_runtime(**arguments)
    assert str(caught.value) == words


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_is_absent_is_refused(there, device: str):
    there()
    with pytest.raises(UserError, match=f"device '{device}' is not available on this machine; use --device cpu"):
        choose_runtime(device)


@pytest.mark.parametrize(
    ("present", "best"),
    [({}, "cpu"), ({"mps": True}, "mps"), ({"cuda": True}, "cuda"), ({"cuda": True, "mps": True}, "cuda")],
)
def test_auto_takes_the_best_there_is(there, present: dict, best: str):
    there(**present)
    assert choose_runtime() == Runtime(best, "fp32", 1)
    assert choose_runtime("cpu").device == "cpu"


def test_threads_are_set():
    assert choose_runtime("cpu", threads=2) == Runtime("cpu", "fp32", 2)
    assert torch.get_num_threads() == 2


def test_full_precision_changes_nothing():
    assert isinstance(Runtime().autocast(), nullcontext)
    with Runtime().autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_half_precision_multiplies_in_bfloat16():
    with Runtime(precision="bf16").autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


@pytest.mark.parametrize("method_id", ["cyc_pdam", "no_adaptation"])
def test_a_half_precision_step_trains_full_precision_weights(method_id: str):
    exact, rough = (tiny.task(method_id, runtime=Runtime(precision=precision)) for precision in ("fp32", "bf16"))
    before = {name: weight.clone() for name, weight in rough.network.named_parameters()}
    full = exact.step(0)
    half = rough.step(0)
    assert half.keys() == full.keys()
    for name, loss in half.items():
        assert torch.isfinite(loss), name
    assert float(half["rpn_objectness"]) != float(full["rpn_objectness"])
    assert float(half["rpn_objectness"]) == pytest.approx(float(full["rpn_objectness"]), rel=0.02)
    after = dict(rough.network.named_parameters())
    assert all(weight.dtype == torch.float32 for weight in after.values())
    assert not torch.equal(after["backbone.body.conv1.weight"], before["backbone.body.conv1.weight"])
