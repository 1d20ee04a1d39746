"""Which source and which target patch meet at an iteration: a pure function of seed and iteration."""

import numpy as np
from numpy.typing import NDArray


def index_at(seed: int, stream: int, count: int, iteration: int) -> int:
    """Return the patch index of an iteration: each pass over `count` patches is a fresh random permutation.

    Nothing is remembered between calls, so a resumed run sees the data in the very order of an unbroken one.
    stream keeps source and target independent.
    """
    epoch, position = divmod(iteration, count)
    return int(_permutation(seed, stream, count, epoch)[position])


_LAST: dict[tuple[int, int, int], tuple[int, NDArray]] = {}


def _permutation(seed: int, stream: int, count: int, epoch: int) -> NDArray:
    """The permutation of a pass; the latest of each stream is kept, since the next iteration asks for it again."""
    key = (seed, stream, count)
    kept = _LAST.get(key)
    if kept is None or kept[0] != epoch:
        kept = (epoch, np.random.default_rng((seed, stream, epoch)).permutation(count))
        _LAST[key] = kept
    return kept[1]


def flips_at(seed: int, stream: int, iteration: int) -> tuple[bool, bool]:
    """Return (left-right, up-down): whether the patch of an iteration is mirrored, each with probability 1/2."""
    first, second = np.random.default_rng((seed, stream, iteration, 1)).integers(2, size=2)
    return bool(first), bool(second)


def flipped(array: NDArray, flips: tuple[bool, bool]) -> NDArray:
    """Return an (H, W, ...) array mirrored left-right and up-down as told, as a contiguous copy."""
    array = array[:, ::-1] if flips[0] else array
    array = array[::-1] if flips[1] else array
    return np.ascontiguousarray(array)
