"""Quantities as people read them."""

from __future__ import annotations


def cost_scale(value: float, unit: str) -> tuple[float, str]:
    """Factor and unit that make a cost of this size readable."""
    return (1e3, "µs") if unit == "ms" and value < 0.5 else (1.0, unit)


def cost_noun(unit: str) -> str:
    """What is counted in a unit."""
    return "instructions" if unit == "Minstr" else "latency"


def millions(count: float) -> str:
    """A number of multiply-adds or weights, for people."""
    return f"{count / 1e6:.3g} M"


def rough(value: float) -> str:
    """Two digits that count, and no exponent."""
    return f"{float(f'{value:.2g}'):g}"


def figure(value: float) -> str:
    """Four digits, and all before the point."""
    return f"{value:.0f}" if value >= 1e3 else f"{value:.4g}"


def times(other: float, own: float, name: str) -> str:
    """One cost against another's, whichever is the larger."""
    if other >= own:
        return f"{other / own:.1f} times as fast as {name}"
    return f"{own / other:.1f} times as slow as {name}"
