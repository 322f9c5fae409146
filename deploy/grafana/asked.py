"""What a Prometheus says about the expressions of a panel."""

import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deploy.grafana.queries import filled_in

POINTS = 240  # of a curve
TIMEOUT = 30.0


class NotAnswered(Exception):
    """Prometheus did not answer, or did not understand."""


@dataclass(frozen=True)
class Span:
    """The time that is shown. start, end: seconds since 1970; step: seconds between two points"""

    start: float
    end: float
    scrape: float

    @property
    def step(self) -> float:
        return max(self.scrape, (self.end - self.start) / POINTS)

    @property
    def builtins(self) -> dict[str, str]:
        """Grafana's own variables."""
        rate = max(self.step + self.scrape, 4 * self.scrape)
        span = f"{self.end - self.start:.0f}s"
        return {"__rate_interval": f"{rate:.0f}s", "__range": span, "__interval": f"{self.step:.0f}s"}


@dataclass(frozen=True)
class Series:
    """One line of a panel. times: (n,) seconds since 1970; values: (n,), NaN where there was nothing"""

    name: str
    labels: Mapping[str, str]
    times: np.ndarray
    values: np.ndarray

    @property
    def last(self) -> float:
        known = self.values[~np.isnan(self.values)]
        return float(known[-1]) if len(known) else float("nan")


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus, at http://host:port."""

    url: str

    def over(self, expression: str, span: Span) -> list[tuple[dict[str, str], np.ndarray, np.ndarray]]:
        """(labels, times, values) of every series, at the same times for all."""
        steps = int((span.end - span.start) / span.step)
        times = span.end - span.step * np.arange(steps, -1, -1)
        found = self._ask("query_range", query=expression, start=times[0], end=times[-1], step=span.step)
        return [(one["metric"], times, _on_grid(one["values"], times, span.step)) for one in found]

    def at(self, expression: str, moment: float) -> list[tuple[dict[str, str], np.ndarray, np.ndarray]]:
        """The same at one moment."""
        found = self._ask("query", query=expression, time=moment)
        return [(one["metric"], np.array([moment]), np.array([float(one["value"][1])])) for one in found]

    def _ask(self, what: str, **parameters: object) -> list[dict[str, Any]]:
        url = f"{self.url.rstrip('/')}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
                return json.load(answer)["data"]["result"]
        except urllib.error.HTTPError as error:
            raise NotAnswered(f"Prometheus refused {parameters['query']}: {error.read().decode()[:300]}") from error
        except OSError as error:
            raise NotAnswered(
                f"no Prometheus answers at {self.url} ({error}); start one, or see --prometheus"
            ) from error


def _on_grid(found: Sequence[Sequence[Any]], times: np.ndarray, step: float) -> np.ndarray:
    """Values at all the times that were asked for, NaN where nothing came: a line is not drawn over a gap."""
    values = np.full(len(times), np.nan)
    for moment, value in found:
        values[round((float(moment) - times[0]) / step)] = float(value)
    return values


def ask(prometheus: Prometheus, panel: dict[str, Any], values: Mapping[str, str], span: Span) -> list[Series]:
    """What a panel shows, query by query."""
    shown = []
    for target in panel["targets"]:
        expression = filled_in(target["expr"], {**values, **span.builtins})
        found = prometheus.at(expression, span.end) if target["instant"] else prometheus.over(expression, span)
        named = [Series(_named(target["legendFormat"], labels), labels, *drawn) for labels, *drawn in found]
        shown += sorted(named, key=lambda one: by_number(one.name))
    return shown


def _named(pattern: str, labels: Mapping[str, str]) -> str:
    if pattern == "__auto":
        return ", ".join(f"{name}={value}" for name, value in labels.items())
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), pattern)


def by_number(name: str) -> list[tuple[int, float, str]]:
    """Sorts names so that 10 comes after 9."""
    return [(0, float(part), "") if part.isdigit() else (1, 0.0, part) for part in re.split(r"(\d+)", name)]
