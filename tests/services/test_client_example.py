"""The README's example of the Python client runs as it stands."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = re.search(r"<!-- client -->\n```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)[1]


def test_the_example_runs(service, tmp_path, monkeypatch, capsys):
    """Against the service of the tests, with the bundled readings, its picture in a folder of its own."""
    (tmp_path / "data").symlink_to(ROOT / "data")
    monkeypatch.chdir(tmp_path)
    assert "127.0.0.1:50051" in EXAMPLE
    exec(EXAMPLE.replace("127.0.0.1:50051", service.address), {})  # noqa: S102 - our own words
    said = capsys.readouterr().out
    for part in ("virtual-population version 1", "q0.05_mg_dl", "mean_mmol_l"):
        assert part in said
    assert (tmp_path / "forecast.png").read_bytes().startswith(b"\x89PNG")
