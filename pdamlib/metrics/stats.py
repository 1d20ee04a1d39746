"""What the tables print about a set of images: mean and deviation, significance, and an interval."""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import ttest_rel

from pdamlib.errors import UserError
from pdamlib.metrics.scores import MEASURES


def summary(scores: pd.DataFrame, ddof: int = 0) -> pd.DataFrame:
    """Return mean and standard deviation over images, a row a measure: columns mean, std.

    The deviation is that of the population (ddof 0), as in the authors' released evaluation; ddof 1 gives the sample's.

    scores: one row an image, with the columns of `MEASURES`; others are ignored.
    """
    values = scores[list(MEASURES)]
    return pd.DataFrame({"mean": values.mean(), "std": values.std(ddof=ddof)})


def paired_t_test(better: ArrayLike, worse: ArrayLike) -> float:
    """Return the p-value of the one-tailed paired t-test that `better` scores higher (Sec. 4.3.1): 0..1.

    When every image differs by the same amount t is infinite or, for equal scores, taken as 0: p is 0, 1 or 0.5.

    better, worse: (N,) scores of the same images in the same order, N at least 2.
    Raises UserError when their lengths differ or there are fewer than two images.
    """
    gains = _gains(np.asarray(better, float), np.asarray(worse, float))
    if np.ptp(gains) == 0:
        return float(0.5 - 0.5 * np.sign(gains[0]))
    return float(ttest_rel(better, worse, alternative="greater").pvalue)


def bootstrap_interval(
    values: ArrayLike, rng: np.random.Generator, level: float = 0.95, resamples: int = 10_000
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean: lower and upper bound, in the unit of `values`.

    values: (N,), N at least 1. level: the share of resampled means inside, 0..1. ours: 10,000 resamples fix two digits.
    """
    sample = np.asarray(values, float)
    means = rng.choice(sample, size=(resamples, len(sample))).mean(axis=1)
    lower, upper = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(lower), float(upper)


def _gains(better: NDArray[np.float64], worse: NDArray[np.float64]) -> NDArray[np.float64]:
    if len(better) != len(worse):
        raise UserError(f"paired t-test: {len(better)} scores against {len(worse)}; score the same images with both")
    if len(better) < 2:
        raise UserError(f"paired t-test: needs two images at least, got {len(better)}; score more images")
    return better - worse
