"""Numbers with their units in words, for the units that the dashboards use."""

import math

SIZES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B"))
TIMES = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms"), (1e-6, "µs"))
BEHIND = {"reqps": " req/s", "cps": "/s", "cpm": "/min", "conmgdL": " mg/dL"}
UNITS = {"short", "none", "percentunit", "bytes", "Bps", "s", "dtdurations", *BEHIND}


def said(value: float, unit: str, decimals: int | None) -> str:
    """A value as a person reads it. unit: Grafana's id; decimals: None for as many as it takes"""
    if unit not in UNITS:
        raise ValueError(
            f"unit {unit} is not among {', '.join(sorted(UNITS))}: give it words in deploy/grafana/units.py"
        )
    if not math.isfinite(value):
        return "–"
    if unit == "percentunit":
        return f"{_number(100 * value, decimals)} %"
    if unit in ("bytes", "Bps"):
        return _scaled(value, SIZES, decimals) + ("/s" if unit == "Bps" else "")
    if unit in ("s", "dtdurations"):
        return _scaled(value, TIMES, decimals)
    return _number(value, decimals) + BEHIND.get(unit, "")


def _scaled(value: float, steps: tuple[tuple[float, str], ...], decimals: int | None) -> str:
    """In the largest unit of which there is at least one."""
    if value == 0:
        return "0"
    size, name = next((step for step in steps if abs(value) >= step[0]), steps[-1])
    return f"{_number(value / size, decimals)} {name}"


def _number(value: float, decimals: int | None) -> str:
    if decimals is not None:
        return f"{value:,.{decimals}f}"
    if abs(value) >= 100 or value == round(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"
