"""The report of a run: it stands alone, says what the evaluation says, and gives nobody's name away."""

import re
from base64 import b64decode
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from forecasting import metrics
from forecasting.bundle import QUANTILES
from forecasting.errors import InvalidSetting
from forecasting.forecaster import Forecasts
from forecasting.metrics import AlarmScores
from forecasting.windows import Timeline, Windows, WindowShape, concatenate
from trainer.evaluate import Evaluation, scores_of
from trainer.report import Cost, Curves, RunReport, write_report
from trainer.report.figures import inks_of
from trainer.report.grids import GRID_LINES, GRID_ZONES
from trainer.report.numbers import GRIDS, by_patient, coverages, examples, rmse_by_step, shares_below, spread_out
from trainer.report.plots import spread
from trainer.report.tables import comparison, number

SHAPE = WindowShape(context_length=12)
HOSTILE = '<script>alert("570")</script>$\\frac&--'
PATIENTS = ("p-570-secret", "p-584-secret", HOSTILE)
VOID = {"meta", "img", "br"}


def windows_of(patient: str, seed: int, count: int = 150) -> Windows:
    """Overlapping windows of a wave with noise and gaps."""
    rng = np.random.default_rng(seed)
    steps = np.arange(count + 23)
    raw = (150 + 60 * np.sin(steps / 9 + seed) + rng.normal(0, 6, len(steps))).astype(np.float32)
    gappy = np.where(rng.random(len(raw)) < 0.05, np.nan, raw).astype(np.float32)
    begins = np.arange(count)
    times = np.datetime64("2025-01-01", "s") + 300 * (begins + 11)
    return Windows(
        np.full(count, patient),
        times,
        np.full(count, 600.0),
        begins,
        Timeline(raw, gappy, np.empty((len(raw), 0)), 12, 12),
    )


def forecasts_of(windows: Windows, error: float, levels: tuple[float, ...] = QUANTILES) -> Forecasts:
    """Nearly right."""
    rng = np.random.default_rng(int(10 * error))
    truth = np.where(np.isnan(windows.target), 150, windows.target)
    mean = np.clip(truth + rng.normal(1, error, truth.shape), 20, 500)
    return Forecasts.of(mean, mean[..., None] + error * 3 * (np.array(levels) - 0.5), levels)


def report_of(windows: Windows, forecasts: dict[str, Forecasts], **changes: Any) -> RunReport:
    arms = {arm: scores_of(windows, f, SHAPE) for arm, f in forecasts.items()}
    for scores in arms.values():
        bar = arms.get("persistence", scores)["mean"]
        for horizon, mean in scores["mean"].items():
            mean["skill"] = metrics.skill(mean["rmse"], bar[horizon]["rmse"])
    left_out = ("patient p-999-secret is left out: no windows in the train part",)
    whole = {
        "title": "Run of <b>made-up</b> people",
        "dataset": "Three made-up people & more.",
        "protocol": "Scored once.",
        "evaluation": Evaluation("made_up", "test", 900, arms, left_out, windows, {}).as_json(),
        "windows": windows,
        "forecasts": forecasts,
        "curves": {"student_distilled": Curves((0.5, 0.4, 0.35), (0.6, 0.45, 0.5))},
        "costs": {"student_distilled": Cost(4_400_000, 17.6, 2.31, None)},
        "findings": ["distilled against alone at 30 min: +0.05 mg/dL (no benefit; one seed proves nothing)"],
        "highlighted": "student_distilled",
        "shape": SHAPE,
    }
    return RunReport(**(whole | changes))


@pytest.fixture(scope="module")
def windows() -> Windows:
    return concatenate([windows_of(patient, seed) for seed, patient in enumerate(PATIENTS)])


@pytest.fixture(scope="module")
def run(windows: Windows) -> RunReport:
    arms = {"persistence": 25.0, "ridge_pooled": 17.0, "student_alone": 15.0, "student_distilled": 14.0}
    return report_of(windows, {arm: forecasts_of(windows, error) for arm, error in arms.items()})


class Page(HTMLParser):
    """A page read back: its images, the texts of its cells and all of its text; fails where tags do not balance."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.cells: list[str] = []
        self.links: list[str] = []
        self.said = ""
        self.source = path.read_text()
        self.feed(self.source)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "action", "srcset")]
        if tag == "img":
            self.images.append(dict(attrs))
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.said += data
        if {"td", "th"} & set(self.open):
            self.cells[-1] += data

    @property
    def pictures(self) -> list[str]:
        """The SVG of every image."""
        return [b64decode(str(image["src"]).partition("base64,")[2]).decode() for image in self.images]


def page_of(report: RunReport, tmp_path: Path) -> Page:
    write_report(report, tmp_path / "report.html")
    return Page(tmp_path / "report.html")


@pytest.fixture(scope="module")
def page(run: RunReport, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return page_of(
        replace(run, alarms={"student_distilled": AlarmScores(40, 30, 50, 20, 64.5, (25.0,) * 30)}),
        tmp_path_factory.mktemp("report"),
    )


@pytest.mark.parametrize("grid", GRIDS)
def test_the_lines_of_a_grid_are_drawn_where_its_zones_meet(grid):
    """From one side of a line to the other is from one zone to another; and letters stand in their zones."""
    zone_of = GRIDS[grid]
    for line in GRID_LINES[grid]:
        for a, b in zip(np.array(line, float)[:-1], np.array(line, float)[1:], strict=True):
            along = a + np.linspace(0.02, 0.98, 200)[:, None] * (b - a)
            across = 0.3 * np.array([-(b - a)[1], (b - a)[0]]) / np.linalg.norm(b - a)
            assert (zone_of(*(along + across).T) != zone_of(*(along - across).T)).all(), (line, a, b)
    letters, x, y = zip(*GRID_ZONES[grid], strict=True)
    assert "".join("ABCDE"[zone] for zone in zone_of(np.array(x, float), np.array(y, float))) == "".join(letters)


def test_the_page_stands_alone_and_is_small(page):
    assert all(link.startswith("data:image/svg+xml;base64,") for link in page.links)
    assert "url(" not in page.source
    assert "@import" not in page.source
    assert len(page.source) < 3_000_000


def test_every_picture_is_drawn_and_described(page):
    assert len(page.images) == 2 + 2 + 4 + 4 + 9 + 1  # by minute, person, grid, calibration; examples; training
    for image, svg in zip(page.images, page.pictures, strict=True):
        assert len(str(image["alt"])) > 20
        root = ElementTree.fromstring(svg)
        assert root.tag.endswith("svg")
        outside = [v for e in root.iter() for k, v in e.attrib.items() if k.endswith("href") and v[:1] != "#"]
        assert all(link.startswith("data:image/png;base64,") for link in outside)


def test_every_arm_and_the_warning_and_the_findings_are_there(page):
    for said in ("student, distilled", "student, alone", "ridge, pooled", "persistence", "no benefit; one seed"):
        assert said in page.said
    assert "Research prototype, not a medical device; no dosing advice." in page.said


def test_the_table_says_what_the_evaluation_says(run, page):
    for arm in run.evaluation["arms"].values():
        for scores in arm["mean"].values():
            for name, pattern in {"rmse": "{:.2f}", "mae": "{:.2f}", "skill": "{:.3f}", "mard": "{:.2f} %"}.items():
                assert number(scores[name], pattern) in page.cells
            assert number(scores["coverage_90"], "{:.1%}") in page.cells


def test_the_best_of_a_column_is_marked_and_nothing_else(run):
    table = comparison(run, "60", inks_of(run))
    place = table.columns.index("RMSE") - 1
    best = [row.ink.label for row in table.rows if row.cells[place].is_best]
    assert best == ["student, distilled"]
    width = table.columns.index("90 % width") - 1
    assert not any(row.cells[width].is_best for row in table.rows)


def test_a_model_no_better_than_the_baseline_is_said_to_bring_no_benefit(run, tmp_path):
    said = " ".join(page_of(replace(run, highlighted="persistence"), tmp_path).said.split())
    assert re.search(r"Against the best baseline: no benefit \([\d.]+.mg/dL higher\) at 30 min \(ridge, pooled\)", said)


def test_without_names_no_id_is_anywhere(page):
    for text in (page.source, *page.pictures):
        assert not re.search(r"secret|alert\(", text)
    assert "person 3" in page.said
    assert "1 left out: no windows in the train part" in page.said


def test_with_names_hostile_ids_and_titles_are_escaped(run, tmp_path):
    page = page_of(replace(run, names=True, title=HOSTILE), tmp_path)
    assert "<script" not in page.source
    assert HOSTILE in page.said
    assert "patient p-999-secret is left out" in page.said
    assert any("p-570-secret" in svg for svg in page.pictures)
    assert all("<script" not in svg for svg in page.pictures)


def test_the_same_run_gives_the_same_page(run, tmp_path):
    assert page_of(run, tmp_path).source == page_of(run, tmp_path).source


def test_one_arm_without_quantiles_is_enough(windows, tmp_path):
    alone = Forecasts(forecasts_of(windows, 14.0).mean[..., None], ())
    page = page_of(report_of(windows, {"student_distilled": alone}, curves={}, costs={}), tmp_path)
    assert "Calibration" not in page.said
    assert "Against the best baseline" not in page.said
    assert len(page.images) == 1 + 2 + 4 + 9


def test_a_horizon_that_nobody_has_is_left_out(windows, tmp_path):
    raw = windows.timeline.raw.copy()
    early = windows[windows.begins % 173 == 0]  # one window a patient, whose last target is taken away
    raw[early.begins + 23] = np.nan
    few = replace(early, timeline=replace(early.timeline, raw=raw))
    arms = {arm: forecasts_of(few, error) for arm, error in {"persistence": 25.0, "student_distilled": 14.0}.items()}
    report = report_of(few, arms)
    assert report.horizons == ["30"]
    page = page_of(report, tmp_path)
    assert "60 minutes ahead" not in page.said
    assert "foretold" in page.said


def test_a_patient_without_a_horizon_is_left_out_there(run, windows, tmp_path):
    evaluation = run.evaluation | {"arms": {a: {**s} for a, s in run.evaluation["arms"].items()}}
    for scores in evaluation["arms"].values():
        scores["patients"] = {p: dict(of) for p, of in scores["patients"].items()}
        del scores["patients"][HOSTILE]["60"]
    page = page_of(replace(run, evaluation=evaluation), tmp_path)
    assert re.search(r"lower for \d of 2 people", page.said)


def test_what_does_not_belong_together_is_refused(run, tmp_path):
    with pytest.raises(InvalidSetting, match="highlights teacher"):
        write_report(replace(run, highlighted="teacher"), tmp_path / "report.html")
    with pytest.raises(InvalidSetting, match="windows"):
        write_report(replace(run, windows=run.windows[:-1]), tmp_path / "report.html")
    assert not list(tmp_path.iterdir())


def test_the_error_at_a_step_is_the_evaluations(run):
    for arm, forecasts in run.forecasts.items():
        errors = rmse_by_step(run.windows, forecasts)
        for horizon, step in run.steps.items():
            assert errors[step] == pytest.approx(run.mean(arm, horizon)["rmse"], rel=1e-6)
            inside = np.nanmean(coverages(run.windows, forecasts, step)[0.9])
            assert inside == pytest.approx(run.mean(arm, horizon)["coverage_90"])


def test_means_by_patient_leave_out_what_was_not_read(windows):
    values = np.where(windows.patient_ids[:, None] == PATIENTS[0], np.nan, 3.0)
    np.testing.assert_array_equal(by_patient(windows, values)[:, 0], [np.nan, 3, 3])


def test_a_perfect_quantile_has_its_share_below(windows):
    target = windows.target
    levels = (0.25, 0.5)
    quantiles = np.stack([np.where(np.arange(len(target))[:, None] % 4 < k, target, -1e3) for k in (1, 2)], axis=-1)
    shares = shares_below(windows, Forecasts.of(target, quantiles, levels), 5)
    np.testing.assert_allclose(shares, levels, atol=0.03)


def test_examples_do_not_overlap_are_ordered_and_of_different_people(run):
    rows = spread_out(run.windows)
    gaps = np.diff(run.windows.begins[rows])
    assert gaps.min() >= 24
    chosen = examples(run.windows, run.published, 11)
    error = np.abs(run.published.mean - run.windows.target)[:, 11]
    assert list(chosen) == ["best", "median", "worst"]
    assert len({row for some in chosen.values() for row in some}) == 9
    assert error[chosen["best"]].max() <= error[chosen["median"]].min() <= error[chosen["worst"]].min()
    for some in chosen.values():
        assert len(set(run.windows.patient_ids[some])) == 3


def test_names_at_the_ends_of_lines_keep_apart_and_in_order():
    values = np.array([3.0, 1.0, 1.1, 9.0, 1.05])
    moved = spread(values, 0.5)
    assert np.diff(np.sort(moved)).min() >= 0.5 - 1e-9
    assert (np.argsort(moved) == np.argsort(values)).all()
    assert moved[3] == 9
    assert spread(np.array([]), 1.0).size == 0


@pytest.mark.parametrize(
    ("value", "pattern", "text"),
    [
        (None, "{:.2f}", "–"),
        (float("nan"), "{:.2f}", "–"),
        (-1.5, "{:+.1f}", "−1.5"),
        (-0.01, "{:+.1f}", "0.0"),
        (0.9, "{:.1%}", "90.0\N{NO-BREAK SPACE}%"),
        (1e6, "{:,.0f} MB", "1,000,000\N{NO-BREAK SPACE}MB"),
    ],
)
def test_numbers_are_printed_as_people_write_them(value, pattern, text):
    assert number(value, pattern) == text
