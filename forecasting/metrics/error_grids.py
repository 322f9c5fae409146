"""Error grids: how much harm a forecast could do, zone A (none) to E.

r: reference, f: forecast, both (n,) mg/dL. Zones are (n,) int8, 0 … 4 for A … E, −1 where either is NaN.
Clarke et al. 1987; Parkes et al. 2000 with the vertices of Pfützner et al. 2013, type 1 diabetes; DTS: Klonoff et al.
2024, which supersedes the Surveillance Error Grid. A point on a line of Parkes or DTS belongs to the better zone.
"""

import numpy as np

ZONES = "ABCDE"
FAR = 10_000.0  # mg/dL; the last stretch of every line goes on to here
ROUNDING = 1e-9  # mg/dL; what interpolation may add to a point that lies on a line

Line = tuple[tuple[float, float], ...]  # (r, f) vertices, r ascending

# A–B, B–C, C–D, D–E. Above an upper line is worse. Below a lower one too, but only right of where it starts.
PARKES_UPPER: tuple[Line, ...] = (
    ((0, 50), (30, 50), (140, 170), (280, 380), (430, 550)),
    ((0, 60), (30, 60), (50, 80), (70, 110), (260, 550)),
    ((0, 100), (25, 100), (50, 125), (80, 215), (125, 550)),
    ((0, 150), (35, 155), (50, 550)),
)
PARKES_LOWER: tuple[Line, ...] = (
    ((50, 30), (170, 145), (385, 300), (550, 450)),
    ((120, 30), (260, 130), (550, 250)),
    ((250, 40), (550, 150)),
)
DTS_UPPER: tuple[Line, ...] = (
    ((50, 60), (500, 600)),
    ((50, 86.5), (347, 600)),
    ((50, 124), (241, 600)),
    ((50, 179), (167, 600)),
)
DTS_LOWER: tuple[Line, ...] = (
    ((62.5, 50), (600, 480)),
    ((97.5, 50), (600, 307)),
    ((153, 50), (600, 197)),
    ((238, 50), (600, 126)),
)


def clarke_zones(r: np.ndarray, f: np.ndarray) -> np.ndarray:
    """Zones of Clarke 1987; where two zones meet, the first in the order A, E, D, C, B."""
    r, f = _float64(r, f)
    # Divisions and decimal factors are multiplied out, so that whole numbers on a line are exactly on it.
    a = (5 * np.abs(f - r) <= r) | ((r < 70) & (f < 70))
    e = ((r <= 70) & (f >= 180)) | ((r >= 180) & (f <= 70))
    d = ((r >= 240) | (r <= 70)) & (f >= 70) & (f <= 180)
    c = ((r >= 70) & (f >= r + 110)) | ((r >= 130) & (r <= 180) & (5 * f <= 7 * r - 910))
    worst_first = np.where(e, np.int8(4), np.where(d, np.int8(3), 1 + c.view(np.int8)))
    return _unknown_apart(np.where(a, np.int8(0), worst_first), r, f)


def parkes_zones(r: np.ndarray, f: np.ndarray) -> np.ndarray:
    """Zones of the Parkes (consensus) error grid for type 1 diabetes."""
    return _lines_crossed(r, f, PARKES_UPPER, PARKES_LOWER)


def dts_zones(r: np.ndarray, f: np.ndarray) -> np.ndarray:
    """Zones of the Diabetes Technology Society's error grid."""
    return _lines_crossed(r, f, DTS_UPPER, DTS_LOWER)


def zone_shares(zones: np.ndarray) -> dict[str, float]:
    """{"A": share of the known zones that are A, …}; NaN where none is known."""
    known = zones[zones >= 0]
    counts = np.bincount(known, minlength=len(ZONES)).tolist()
    return {zone: count / len(known) if len(known) else float("nan") for zone, count in zip(ZONES, counts, strict=True)}


def _lines_crossed(r: np.ndarray, f: np.ndarray, upper: tuple[Line, ...], lower: tuple[Line, ...]) -> np.ndarray:
    """How many lines lie between each point and the diagonal: its zone, as no two lines of a side meet."""
    r, f = _float64(r, f)
    crossed = np.zeros(r.shape, np.int8)
    for line in upper:
        crossed += f > np.interp(r, *_vertices(line)) + ROUNDING
    for line in lower:
        crossed += (f < np.interp(r, *_vertices(line)) - ROUNDING) & (r > line[0][0])
    return _unknown_apart(crossed, r, f)


def _vertices(line: Line) -> tuple[list[float], list[float]]:
    """r and f of a line's vertices, the last stretch extended to FAR; left of the first a line is level."""
    (r0, f0), (r1, f1) = line[-2:]
    end = (FAR, f1 + (f1 - f0) / (r1 - r0) * (FAR - r1))
    return [r for r, _ in (*line, end)], [f for _, f in (*line, end)]


def _float64(r: np.ndarray, f: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(r, np.float64), np.asarray(f, np.float64)


def _unknown_apart(zones: np.ndarray, r: np.ndarray, f: np.ndarray) -> np.ndarray:
    """(n,) int8, with −1 where r or f is NaN."""
    zones[np.isnan(r + f)] = -1
    return zones
