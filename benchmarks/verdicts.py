"""Figures beside their goals."""

import statistics
from dataclasses import dataclass

import typer
from rich.console import Console

console = Console(width=None if Console().is_terminal else 150)  # tables in a log need no line breaks


@dataclass(frozen=True)
class Goal:
    """A figure and what it should be."""

    what: str
    value: float
    goal: float
    at_most: bool = True
    unit: str = ""

    @property
    def is_met(self) -> bool:
        return self.value <= self.goal if self.at_most else self.value >= self.goal

    def __str__(self) -> str:
        bound = "at most" if self.at_most else "at least"
        said = "met" if self.is_met else "[red]missed[/red]"
        return f"{self.what}: {self.value:.3g}{self.unit}, goal {bound} {self.goal:g}{self.unit}: {said}"


def verdict(what: str, value: float, goal: float, at_most: bool = True, unit: str = "") -> None:
    """Print a figure beside its goal; exit 1 where it was missed."""
    told = Goal(what, value, goal, at_most, unit)
    console.print(str(told))
    if not told.is_met:
        raise typer.Exit(1)


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.0f} ({min(values):.0f} to {max(values):.0f})"
