"""What a step trains follows from the phase and the seed."""

from __future__ import annotations

import numpy as np
import pytest

from ofa_tvm.errors import UsageError
from ofa_tvm.spaces import get_space, list_spaces
from ofa_tvm.training import Phase, TrainingConfig, digits_config, paper_config, sampling


@pytest.mark.parametrize("name", list_spaces())
def test_every_phase_draws_from_its_open_choices_and_no_others(name: str) -> None:
    space = get_space(name)
    config = paper_config(space)
    side = space.median_resolution
    largest = space.encode([space.max_arch()])[0][:-1]
    for index, phase in enumerate(config.phases):
        archs = [a for step in range(60) for a in sampling.step_subnets(space, phase, index, 0, step, side)]
        assert all(a.r == side for a in archs)
        genes = space.encode(archs)[:, :-1]
        low, high = (bound[:-1] for bound in sampling.gene_ranges(space, phase))
        # 60 draws or more of at most three choices: all of them turn up.
        assert np.array_equal(genes.min(axis=0), low) and np.array_equal(genes.max(axis=0), high)
        assert np.array_equal(high, largest)
        assert (low < high).any() == bool(phase.open)
    last_low = sampling.gene_ranges(space, config.phases[-1])[0][:-1]
    assert not last_low.any(), "after the last phase the whole space is open"


def test_the_papers_settings() -> None:
    config = paper_config(get_space("ofa_mbv3_w1.0"))
    assert [(p.name, p.total_epochs, p.subnets) for p in config.phases] == [
        ("full", 180, 1), ("kernel", 125, 1), ("depth1", 25, 2), ("depth2", 125, 2),
        ("expand1", 25, 4), ("expand2", 125, 4),
    ]  # fmt: skip
    assert config.phases[0].learning_rate * config.batch_size / 64 == pytest.approx(2.6)
    assert [p.learning_rate for p in config.phases[1:]] == [3e-2, 2.5e-3, 7.5e-3, 2.5e-3, 7.5e-3]
    assert (config.momentum, config.weight_decay, config.label_smoothing, config.dropout) == (
        0.9, 3e-5, 0.1, 0.1,
    )  # fmt: skip


def test_steps_depend_on_seed_and_step_alone() -> None:
    space, phase = get_space("ofa_mbv3_w1.0"), Phase("all", {"ks": 0, "d": 0, "e": 0}, subnets=2)

    def draw(seed: int, step: int) -> list[str]:
        return [a.to_json() for a in sampling.step_subnets(space, phase, 3, seed, step, 128)]

    assert draw(0, 5) == draw(0, 5) != draw(0, 6) != draw(1, 6)
    assert sorted(sampling.epoch_order(50, 0, 1, 2)) == list(range(50))
    assert not np.array_equal(sampling.epoch_order(50, 0, 1, 2), sampling.epoch_order(50, 0, 1, 3))
    drawn = {sampling.step_resolution((32, 40, 48), 0, 0, step) for step in range(40)}
    assert drawn == {32, 40, 48}


def test_corners_are_the_ends_of_open_dimensions() -> None:
    space = get_space("ofa_digits")
    corners = sampling.corner_subnets(space, Phase("p", {"ks": 0, "d": 2}))
    assert set(corners) == {f"ks={a} d={b}" for a in ("min", "max") for b in ("min", "max")}
    assert set(corners["ks=min d=min"].ks) == {3} and set(corners["ks=min d=min"].d) == {3}
    assert corners["ks=max d=max"] == space.max_arch(corners["ks=max d=max"].r)


def test_settings_round_trip_and_refuse_nonsense() -> None:
    config = digits_config()
    assert TrainingConfig.from_dict(config.to_dict()) == config
    with pytest.raises(UsageError, match="unknown training setting 'epochs'"):
        TrainingConfig.from_dict({**config.to_dict(), "epochs": 3})
    with pytest.raises(UsageError, match="unknown phase setting 'lr'"):
        TrainingConfig.from_dict({**config.to_dict(), "phases": [{"name": "full", "lr": 1}]})
    with pytest.raises(UsageError, match="phase full: epochs"):
        Phase("full", epochs=0) and config.replace(phases=(Phase("full", epochs=0),))
    for name in ("", "../full", "a/b"):
        with pytest.raises(UsageError, match="must do as a file's name"):
            config.replace(phases=(Phase(name),))
    with pytest.raises(UsageError, match="scaled by inf"):
        config.with_epochs(float("inf"))
    for settings, message in (
        (["batch_size=64.0"], r"batch_size: 64\.0 is not a whole number"),
        (["momentum=.nan"], "momentum: nan is not a finite number"),
        (["phases.full.learning_rate=1e39"], r"learning_rate: 1e\+39 is above"),  # more than float32 holds
        (["weight_decay=1e39"], r"weight_decay: 1e\+39 is above"),
        (["phases=3"], "phases: 3 is not a list"),
        (["phases=[3]", "phases.full.epochs=2"], r"phases\.0: 3 is not a table"),
    ):
        with pytest.raises(UsageError, match=message):
            config.with_settings(settings)
    with pytest.raises(UsageError, match="opens 'w'"):
        sampling.gene_ranges(get_space("ofa_digits"), Phase("p", {"w": 0}))
