"""Statistics over seeds."""

import math
from statistics import mean, stdev

from scipy import stats


def mean_interval(values, confidence=0.95):
    """Mean and half-width of its Student-t confidence interval over seeds; the half-width of one seed is NaN."""
    if len(values) < 2:
        return mean(values), math.nan
    quantile = stats.t.ppf((1 + confidence) / 2, len(values) - 1)
    return mean(values), float(quantile * stdev(values) / math.sqrt(len(values)))
