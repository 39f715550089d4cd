"""Dynamic programming against the search: `python benchmarks/search_exact.py`.

The published accuracy network is no sum over blocks, so no exact method applies to it. A sum over blocks and
depths can be fitted to it around a subnet, and the best subnet of that sum within a budget is found exactly,
by dynamic programming over the blocks with the latency in 1,500 steps. Here this is done at each resolution,
four times, each time around what the time before gave after a climb. Prints, for each budget, how far the
result is behind the best known, and how well the sums fit. Data from `OFA_TVM_DATA`, else `../shared/data`.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
from provenance import save
from search import BEST, RESULTS, published
from sklearn.linear_model import Ridge

from ofa_tvm.search.climb import Climber
from ofa_tvm.search.constraints import Limits, cheapest, latency_limit, repair
from ofa_tvm.spaces.space import Space

STEPS, ROUNDS, SAMPLES = 1500, 4, 1500


class Sums:
    """A space of five stages of four blocks, as sums over the blocks' 9 states and the stages' 3 depths."""

    def __init__(self, space: Space) -> None:
        self.space = space
        every = np.arange(len(space.cardinalities))
        self._ks, self._e, self._d = (every[space.columns(field)] for field in ("ks", "e", "d"))

    def features(self, genes: np.ndarray) -> np.ndarray:
        """(n, n_genes) -> (n, 20 * 9 + 5 * 3), ones and zeros."""
        on = self.space.active(genes)[:, self._ks]
        states = np.eye(9)[genes[:, self._ks] * 3 + genes[:, self._e]] * on[..., None]
        return np.hstack(
            [states.reshape(len(genes), -1), np.eye(3)[genes[:, self._d]].reshape(len(genes), -1)]
        )

    def best(self, gains: np.ndarray, costs: np.ndarray, budget: float, genes: np.ndarray) -> np.ndarray:
        """Genes of the largest sum of gains whose costs, each rounded up to a step, are within the budget."""
        taken = np.maximum(np.ceil(costs / (budget / STEPS)), 0).astype(int)
        value, kept = np.zeros(STEPS + 1), []

        def added(before: np.ndarray, entry: int) -> np.ndarray:
            after, step = np.full(STEPS + 1, -np.inf), taken[entry]
            if step <= STEPS:
                after[step:] = before[: STEPS + 1 - step] + gains[entry]
            return after

        for stage in range(5):
            ends, states = [], []
            for place in range(4):
                options = np.array([added(value, (stage * 4 + place) * 9 + state) for state in range(9)])
                states.append(options.argmax(axis=0))
                value = options.max(axis=0)
                if place:
                    ends.append(added(value, 180 + stage * 3 + place - 1))
            kept.append((states, np.argmax(ends, axis=0)))
            value = np.max(ends, axis=0)
        found, at = genes.copy(), int(value.argmax())
        for stage in reversed(range(5)):
            states, depths = kept[stage]
            depth = int(depths[at])
            found[self._d[stage]] = depth
            at -= taken[180 + stage * 3 + depth]
            for block in range(stage * 4 + depth + 1, stage * 4 - 1, -1):
                state = int(states[block - stage * 4][at])
                found[self._ks[block]], found[self._e[block]] = divmod(state, 3)
                at -= taken[block * 9 + state]
        return found


def main() -> None:
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    space, accuracy, table = published(Path(os.environ.get("OFA_TVM_DATA", beside)))
    sums, rows = Sums(space), []
    for budget, best_known in BEST.items():
        start, solving, fits, best = time.process_time(), [], [], 0.0
        limits = Limits((latency_limit(table, float(budget)),))
        for r in table.resolutions:
            floor, ratio = cheapest(space, limits, [r])
            if ratio > 1:
                continue
            rng, climber = np.random.default_rng(0), Climber(space, accuracy, limits, table.resolutions)
            genes = space.sample_genes(rng, SAMPLES, [r])
            genes, _ = repair(genes, np.tile(floor, (SAMPLES, 1)), limits, rng)
            cost = Ridge(1e-6).fit(sums.features(genes), table(genes))
            for _ in range(ROUNDS):
                x, y = sums.features(genes), accuracy(genes)
                gain = Ridge(1e-2).fit(x, y)
                fits.append(float(gain.score(x, y)))
                before = time.process_time()
                # A little less than the budget: the costs are fitted as well.
                room = 0.999 * budget - float(cost.intercept_)
                solved = sums.best(gain.coef_, cost.coef_, room, floor)[None]
                solving.append(time.process_time() - before)
                solved, _ = repair(solved, floor[None], limits, rng)
                found, value = climber.exhaust(solved[0], float(accuracy(solved)[0]))
                best = max(best, value)
                near = space.mutate(np.tile(found, (SAMPLES, 1)), rng, 0.2, [r])
                genes, _ = repair(near, np.tile(floor, (SAMPLES, 1)), limits, rng)
        rows.append(
            {
                "budget_ms": budget,
                "accuracy": best,
                "gap_points": 100 * (best_known - best),
                "cpu_seconds": time.process_time() - start,
                "solving_ms": 1e3 * float(np.mean(solving)),
                "explained": [min(fits), max(fits)],
            }
        )
        print({key: np.round(value, 4).tolist() for key, value in rows[-1].items()}, flush=True)
    print(f"mean {np.mean([row['gap_points'] for row in rows]):.3f} points behind the best known")
    save(RESULTS / "search_exact.json", {"budgets": rows})


if __name__ == "__main__":
    main()
