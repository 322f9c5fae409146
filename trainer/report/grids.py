"""Where the zones of error grids meet: lines to draw, as points (truth, forecast) in mg/dL.

Clarke 1987; DTS: Klonoff 2024. Only pictures need lines; which zone a forecast is in, forecasting.metrics says.
"""

LINES_END = 600.0
Points = tuple[tuple[float, float], ...]

CLARKE: tuple[Points, ...] = (
    ((0, 70), (70 / 1.2, 70), (LINES_END / 1.2, LINES_END)),  # A above
    ((70, 0), (70, 56), (LINES_END, 0.8 * LINES_END)),  # A below
    ((0, 180), (70, 180), (70, LINES_END)),  # E above
    ((180, 0), (180, 70), (LINES_END, 70)),  # E below
    ((70, 84), (70, 180), (LINES_END - 110, LINES_END)),  # D on the left, C above
    ((240, 70), (240, 180), (LINES_END, 180)),  # D on the right
    ((130, 0), (180, 70)),  # C below
)
# At its (upper, lower) line: the forecast up to a truth of 50, the truth where it reaches 600; the truth where it
# starts at a forecast of 50, the forecast at a truth of 600.
_DTS = (
    ((60.0, 500.0), (62.5, 480.0)),
    ((86.5, 347.0), (97.5, 307.0)),
    ((124.0, 241.0), (153.0, 197.0)),
    ((179.0, 167.0), (238.0, 126.0)),
)
DTS: tuple[Points, ...] = tuple(
    line
    for (level, reaches), (starts, ends) in _DTS
    for line in (
        ((0, level), (50, level), (reaches, LINES_END)),
        ((starts, 0), (starts, 50), (LINES_END, ends)),
    )
)
GRID_LINES = {"Clarke": CLARKE, "DTS": DTS}
GRID_ZONES = {  # where a zone's letter stands
    "Clarke": (
        ("A", 365, 345),
        ("B", 288, 375),
        ("B", 335, 215),
        ("C", 118, 370),
        ("C", 163, 16),
        ("D", 30, 125),
        ("D", 365, 125),
        ("E", 30, 370),
        ("E", 365, 30),
    ),
    "DTS": (
        ("A", 365, 345),
        ("B", 260, 375),
        ("B", 375, 247),
        ("C", 181, 375),
        ("C", 375, 158),
        ("D", 126, 375),
        ("D", 375, 101),
        ("E", 50, 375),
        ("E", 375, 35),
    ),
}
