"""Figures beside their goals."""

import statistics

import typer
from rich.console import Console

console = Console()


def verdict(what: str, value: float, goal: float, at_most: bool = True, unit: str = "") -> None:
    """Print a figure beside its goal; exit 1 where it was missed."""
    met = value <= goal if at_most else value >= goal
    bound = "at most" if at_most else "at least"
    console.print(f"{what}: {value:.3g}{unit}, goal {bound} {goal:g}{unit}: {'met' if met else '[red]missed[/red]'}")
    if not met:
        raise typer.Exit(1)


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.0f} ({min(values):.0f} to {max(values):.0f})"
