"""A sweep's leaderboard: what was found on the validation part, as rows, and as an HTML page that stands alone."""

from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from statistics import mean, stdev

import numpy as np
from jinja2 import Environment, PackageLoader, select_autoescape

from trainer.kept import write_text
from trainer.sweep_record import SweepRecord, TrialRecord

PANELS = 12  # patients with learning curves of their own
ROWS = 20  # configurations that are drawn


@dataclass(frozen=True)
class Configuration:
    """What was varied beside patient and seed, over all patients and seeds.

    finished, of: how many of its trials finished
    rmse: {horizon: (mean over patients and seeds, standard deviation over seeds or None)}; only where all finished:
          others lack the patients or seeds that were stopped, and do not compare
    """

    label: str
    finished: int
    of: int
    loss: float
    rmse: dict[str, tuple[float, float | None]]

    @property
    def whole(self) -> bool:
        return self.finished == self.of


def horizons_of(record: SweepRecord) -> list[str]:
    """In minutes."""
    return list(next((trial.validation for trial in record.trials if trial.validation), {}))


def label_of(trial: TrialRecord) -> str:
    """A trial's configuration in words."""
    taught = f"{trial.teacher}, w {trial.teacher_weight:g}" if trial.teacher else "alone"
    return f"{trial.student}, {taught}, lr {trial.learning_rate:g}"


def configurations_of(record: SweepRecord) -> list[Configuration]:
    """Whole ones first, the best by validation loss on top."""
    groups: dict[tuple[str, str, float, float], list[TrialRecord]] = {}
    for trial in record.trials:
        groups.setdefault(trial.configuration, []).append(trial)
    found = [_summary(trials, horizons_of(record)) for trials in groups.values()]
    return sorted(found, key=lambda c: (not c.whole, c.loss))


def _summary(trials: list[TrialRecord], horizons: list[str]) -> Configuration:
    finished = [trial for trial in trials if trial.status == "finished"]
    if len(finished) < len(trials):
        return Configuration(label_of(trials[0]), len(finished), len(trials), float("inf"), {})
    rmse = {horizon: _over_seeds(trials, horizon) for horizon in horizons}
    return Configuration(label_of(trials[0]), len(finished), len(trials), mean(t.loss for t in trials), rmse)


def _over_seeds(trials: list[TrialRecord], horizon: str) -> tuple[float, float | None]:
    by_seed: dict[int, list[float]] = {}
    for trial in trials:
        if horizon in trial.validation:
            by_seed.setdefault(trial.seed, []).append(trial.validation[horizon]["rmse"])
    seeds = [mean(values) for values in by_seed.values()]
    return mean(seeds), stdev(seeds) if len(seeds) > 1 else None


def write_leaderboard(record: SweepRecord, path: Path) -> None:
    """One HTML file with its pictures inside."""
    environment = Environment(loader=PackageLoader("trainer"), autoescape=select_autoescape(), trim_blocks=True)
    page = environment.get_template("leaderboard.html").render(
        record=record,
        horizons=horizons_of(record),
        configurations=configurations_of(record),
        label_of=label_of,
        settings=record.settings.model_dump_json(indent=1, exclude={"runs": True, "data": {"data_dir"}}),
        curves=_curves(record),
        scatter=_scatter(record) if horizons_of(record) else "",
    )
    write_text(path, page)


def _curves(record: SweepRecord) -> str:
    """Validation loss by epoch, a panel for each patient: the best in colour, stopped and failed ones dashed."""
    from matplotlib.figure import Figure

    targets = record.targets[:PANELS]
    columns = min(3, len(targets))
    rows = -(-len(targets) // columns)
    figure = Figure(figsize=(4.2 * columns, 2.6 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, target in zip(panels, targets, strict=False):
        ranked = record.ranked(target)
        for trial in reversed(ranked):
            best = trial is ranked[0] and trial.status == "finished"
            style = {"color": "#c2410c", "linewidth": 2.2} if best else {"color": "#64748b", "linewidth": 0.8}
            line = "-" if trial.status == "finished" else "--"
            panel.plot(range(1, len(trial.losses) + 1), trial.losses, line, marker=".", markersize=3, **style)
        panel.set_title(target, fontsize=9)
        panel.set_xlabel("epoch", fontsize=8)
        panel.set_ylabel("validation loss", fontsize=8)
        panel.xaxis.get_major_locator().set_params(integer=True)
    for panel in panels[len(targets) :]:
        panel.axis("off")
    return _svg(figure)


def _scatter(record: SweepRecord) -> str:
    """RMSE of every finished trial by configuration, and their mean; a panel for each horizon."""
    from matplotlib.figure import Figure

    horizons, drawn = horizons_of(record), configurations_of(record)[:ROWS]
    place = {configuration.label: row for row, configuration in enumerate(drawn)}
    figure = Figure(figsize=(12, 1.4 + 0.34 * len(drawn)), layout="constrained")
    panels = figure.subplots(1, len(horizons), squeeze=False, sharey=True)[0]
    for panel, horizon in zip(panels, horizons, strict=True):
        dots = [
            (trial.validation[horizon]["rmse"], place[label_of(trial)])
            for trial in record.trials
            if horizon in trial.validation and label_of(trial) in place
        ]
        panel.scatter(*np.array(dots).reshape(-1, 2).T, s=16, color="#94a3b8", label="a trial")
        means = [(c.rmse[horizon][0], place[c.label]) for c in drawn if horizon in c.rmse]
        panel.scatter(*np.array(means).reshape(-1, 2).T, s=28, marker="D", color="#c2410c", label="mean")
        for arm, style in (("persistence", ":"), ("ridge_personal", "--")):
            level = mean(scores[arm][horizon]["rmse"] for scores in record.baselines.values())
            panel.axvline(level, linestyle=style, color="#0f172a", linewidth=1, label=arm.replace("_", ", "))
        panel.set_xlabel(f"RMSE at {horizon} min, mg/dL", fontsize=9)
    panels[0].set_yticks(range(len(drawn)), [configuration.label for configuration in drawn], fontsize=8)
    panels[0].set_ylim(len(drawn) - 0.5, -0.5)  # the best on top
    panels[0].legend(fontsize=7, loc="best")
    return _svg(figure)


def _svg(figure: "object") -> str:
    text = StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(text, format="svg", metadata=nothing)  # type: ignore[attr-defined]
    return text.getvalue().partition("<svg")[2].join(("<svg", ""))
