"""Error grids: hand-computed points on every boundary, and other ways to find the zone of a point."""

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.path import Path as Polygon

from forecasting import metrics
from forecasting.metrics import ZONES, clarke_zones, dts_zones, parkes_zones

CLARKE_BY_METHCOMP = Path(__file__).parent / "clarke_by_methcomp.json"
GRIDS = [clarke_zones, parkes_zones, dts_zones]
TINY = 1e-3  # mg/dL to the worse side of a line
FAR = 5000


def zone(grid, r: float, f: float) -> str:
    return ZONES[grid(np.array([r]), np.array([f]))[0]]


# (r, f, zone there, a step to the worse side, zone there)
CLARKE_EDGES = [
    (100, 120, "A", (0, 1), "B"),  # 20 %
    (100, 80, "A", (0, -1), "B"),
    (35, 42, "A", (0, 1), "A"),  # both below 70, whatever the ratio
    (69, 20, "A", (1, 0), "B"),
    (69.99, 69.99, "A", (0, 13), "A"),
    (70, 84, "A", (0, 1), "D"),
    (71, 86, "B", (-1, 0), "D"),  # r ≤ 70 and 70 ≤ f ≤ 180
    (55, 69.9, "A", (0, 0.1), "D"),
    (70, 179.9, "D", (0, 0.1), "E"),  # E before D
    (70.1, 179.9, "B", (0, 0.3), "C"),
    (70, 250, "E", (1, 0), "C"),
    (180, 71, "B", (0, -1), "E"),
    (179, 70, "B", (1, 0), "E"),
    (178, 67, "C", (2, 0), "E"),
    (239, 180, "B", (1, 0), "D"),
    (240, 181, "B", (0, -1), "D"),
    (240, 70.1, "D", (0, -0.1), "E"),
    (100, 209, "B", (0, 1), "C"),  # r + 110
    (350, 459, "B", (0, 1), "C"),  # also beyond 290
    (150, 29, "B", (0, -1), "C"),  # 1.4 r − 182
    (165, 50, "B", (0, -1), "C"),
    (129.9, 0, "B", (0.1, 0), "C"),
    (180, 70, "E", (0, 0), "E"),
    (179, 68.6, "C", (0, 0.1), "B"),
]


@pytest.mark.parametrize(("r", "f", "here", "step", "there"), CLARKE_EDGES)
def test_clarke_at_its_boundaries(r, f, here, step, there):
    assert (zone(clarke_zones, r, f), zone(clarke_zones, r + step[0], f + step[1])) == (here, there)


def test_clarke_agrees_with_another_implementation_off_the_boundaries():
    theirs = json.loads(CLARKE_BY_METHCOMP.read_text())
    r, f = np.meshgrid(theirs["reference"], theirs["forecast"], indexing="ij")
    ours = clarke_zones(r.ravel(), f.ravel()).reshape(r.shape)
    assert ["".join(ZONES[k] for k in row) for row in ours] == theirs["zones"]


# On a line between two zones: (r, f, better and worse zone); the last of each line lies beyond its last vertex.
PARKES_ABOVE = [
    *[(0, 50, "AB"), (30, 50, "AB"), (85, 110, "AB"), (140, 170, "AB"), (210, 275, "AB"), (355, 465, "AB")],
    *[(430, 550, "AB"), (460, 584, "AB")],
    *[(0, 60, "BC"), (30, 60, "BC"), (40, 70, "BC"), (60, 95, "BC"), (165, 330, "BC"), (355, 770, "BC")],
    *[(0, 100, "CD"), (25, 100, "CD"), (30, 105, "CD"), (65, 170, "CD"), (102.5, 382.5, "CD"), (170, 885, "CD")],
    *[(0, 150, "DE"), (7, 151, "DE"), (35, 155, "DE"), (42.5, 352.5, "DE"), (65, 945, "DE")],
]
PARKES_BELOW = [
    *[(110, 87.5, "AB"), (170, 145, "AB"), (277.5, 222.5, "AB"), (467.5, 375, "AB"), (715, 600, "AB")],
    *[(190, 80, "BC"), (260, 130, "BC"), (405, 190, "BC"), (840, 370, "BC")],
    *[(400, 95, "CD"), (550, 150, "CD"), (850, 260, "CD")],
]
PARKES_RIGHT = [(50, 0, "AB"), (50, 30, "AB"), (120, 0, "BC"), (120, 30, "BC"), (250, 0, "CD"), (250, 40, "CD")]
DTS_ABOVE = [
    *[(0, 60, "AB"), (50, 60, "AB"), (275, 330, "AB"), (500, 600, "AB"), (590, 708, "AB")],
    *[(0, 86.5, "BC"), (50, 86.5, "BC"), (198.5, 343.25, "BC"), (347, 600, "BC"), (495.5, 856.75, "BC")],
    *[(0, 124, "CD"), (50, 124, "CD"), (145.5, 362, "CD"), (241, 600, "CD"), (336.5, 838, "CD")],
    *[(0, 179, "DE"), (50, 179, "DE"), (108.5, 389.5, "DE"), (167, 600, "DE"), (225.5, 810.5, "DE")],
]
DTS_BELOW = [
    *[(331.25, 265, "AB"), (600, 480, "AB"), (868.75, 695, "AB")],
    *[(348.75, 178.5, "BC"), (600, 307, "BC"), (851.25, 435.5, "BC")],
    *[(376.5, 123.5, "CD"), (600, 197, "CD"), (823.5, 270.5, "CD")],
    *[(419, 88, "DE"), (600, 126, "DE"), (781, 164, "DE")],
]
DTS_RIGHT = [(62.5, 0, "AB"), (62.5, 50, "AB"), (97.5, 0, "BC"), (97.5, 50, "BC")]
DTS_RIGHT += [(153, 0, "CD"), (153, 50, "CD"), (238, 0, "DE"), (238, 50, "DE")]


@pytest.mark.parametrize(
    ("grid", "points", "worse"),
    [
        (parkes_zones, PARKES_ABOVE, (0, 1)),
        (parkes_zones, PARKES_BELOW, (0, -1)),
        (parkes_zones, PARKES_RIGHT, (1, 0)),
        (dts_zones, DTS_ABOVE, (0, 1)),
        (dts_zones, DTS_BELOW, (0, -1)),
        (dts_zones, DTS_RIGHT, (1, 0)),
    ],
)
def test_a_point_on_a_line_is_of_the_better_zone_and_one_beside_it_of_the_worse(grid, points, worse):
    found = [(r, f, zone(grid, r, f) + zone(grid, r + TINY * worse[0], f + TINY * worse[1])) for r, f, _ in points]
    assert found == points


def polygons(upper: list, lower: list) -> list[Polygon]:
    """The region beyond each line, closed far out."""
    above = [[*line, beyond(line), (-FAR, FAR), (-FAR, line[0][1])] for line in upper]
    below = [[(line[0][0], -FAR), *line, beyond(line), (FAR * 9, -FAR)] for line in lower]
    return [Polygon(corners) for corners in above + below]


def beyond(line: list) -> tuple[float, float]:
    (r0, f0), (r1, f1) = line[-2:]
    return r1 + 20 * (r1 - r0), f1 + 20 * (f1 - f0)


PFUTZNER_2013 = (
    [
        [(0, 50), (30, 50), (140, 170), (280, 380), (430, 550)],
        [(0, 60), (30, 60), (50, 80), (70, 110), (260, 550)],
        [(0, 100), (25, 100), (50, 125), (80, 215), (125, 550)],
        [(0, 150), (35, 155), (50, 550)],
    ],
    [
        [(50, 0), (50, 30), (170, 145), (385, 300), (550, 450)],
        [(120, 0), (120, 30), (260, 130), (550, 250)],
        [(250, 0), (250, 40), (550, 150)],
    ],
)
KLONOFF_2024 = (
    [[(0, f), (50, f), (r, 600)] for f, r in ((60, 500), (86.5, 347), (124, 241), (179, 167))],
    [[(r, 0), (r, 50), (600, f)] for r, f in ((62.5, 480), (97.5, 307), (153, 197), (238, 126))],
)


@pytest.mark.parametrize(("grid", "lines"), [(parkes_zones, PFUTZNER_2013), (dts_zones, KLONOFF_2024)])
def test_zones_are_the_polygons_that_a_point_lies_in(grid, lines):
    points = np.random.default_rng(3).uniform(1, 800, (100_000, 2))
    expected = sum(polygon.contains_points(points).astype(int) for polygon in polygons(*lines))
    assert (grid(*points.T) == expected).all()
    assert set(expected) == set(range(len(ZONES)))


def last_before(ratios: np.ndarray, r: float) -> list[float]:
    """Where f/r leaves one DTS zone for the next."""
    zones = dts_zones(np.full(len(ratios), r), r * ratios)
    return ratios[np.flatnonzero(np.diff(zones))].tolist()


def test_dts_lines_are_close_to_rays():
    for r in (60.0, 100.0, 150.0, 200.0):
        assert last_before(np.arange(1, 4, 0.001), r) == pytest.approx([1.2, 1.73, 2.49, 3.59], abs=0.05)
    for r in (300.0, 400.0, 600.0):
        assert last_before(np.arange(1, 0.15, -0.001), r) == pytest.approx([0.8, 0.51, 0.33, 0.21], abs=0.01)


@pytest.mark.parametrize("grid", GRIDS)
def test_a_perfect_forecast_is_in_zone_a_and_the_zones_are_small_integers(grid):
    glucose = np.arange(10, 601, dtype=np.float32)
    assert (grid(glucose, glucose) == 0).all()
    assert grid(glucose, glucose).dtype == np.int8


@pytest.mark.parametrize("grid", GRIDS)
def test_missing_references_have_no_zone_and_no_share(grid):
    zones = grid(np.array([100, np.nan, 100, 40]), np.array([100.0, 100, 100, 500]))
    assert zones.tolist() == [0, -1, 0, 4]
    assert metrics.zone_shares(zones) == pytest.approx({"A": 2 / 3, "B": 0, "C": 0, "D": 0, "E": 1 / 3})


def test_shares_of_nothing_are_no_numbers():
    assert np.isnan(list(metrics.zone_shares(np.array([-1], np.int8)).values())).all()
