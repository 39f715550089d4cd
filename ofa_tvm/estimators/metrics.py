"""How well a predictor does: errors and rank correlations, the same wherever they are reported."""

from __future__ import annotations

import numpy as np
from scipy.stats import kendalltau, spearmanr


def errors(predicted: np.ndarray, measured: np.ndarray) -> dict[str, float]:
    """How well costs are predicted.

    n, mae and rmse (in the unit), mape (a fraction), Spearman's and Kendall's rank correlation (NaN where
    either is constant), and the fractions of predictions that are within 5 and 10 % of the measurement.
    """
    gap = predicted - measured
    relative = np.abs(gap) / measured
    constant = np.ptp(measured) == 0 or np.ptp(predicted) == 0
    return {
        "n": len(measured),
        "mae": float(np.abs(gap).mean()),
        "rmse": float(np.sqrt((gap**2).mean())),
        "mape": float(relative.mean()),
        "spearman": spearman(predicted, measured),
        "kendall": float("nan") if constant else float(kendalltau(predicted, measured).statistic),
        "within5": float((relative <= 0.05).mean()),
        "within10": float((relative <= 0.10).mean()),
    }


def within95(predicted: np.ndarray, deviation: np.ndarray, measured: np.ndarray) -> float:
    """Share of the measurements that lie in their 95 % interval, 1.96 deviations to either side."""
    return float((np.abs(predicted - measured) < 1.96 * deviation).mean())


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation, or NaN if either is constant."""
    return float("nan") if np.ptp(a) == 0 or np.ptp(b) == 0 else float(spearmanr(a, b).statistic)
