"""The import rules of the design, held by reading the source: no rule can be broken by accident."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OURS = {"protos", "forecasting", "trainer", "services"}
MAY_IMPORT = {
    "protos": {"protos"},
    "forecasting": {"forecasting"},
    "trainer": {"trainer", "forecasting"},
    "services": {"services", "forecasting", "protos"},
}
TRAINING_ONLY = {"torch", "transformers", "ray"}


def imported_by(path: Path) -> set[str]:
    """Top-level names of everything a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


def files_of(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def test_packages_import_only_what_the_design_allows():
    for package, allowed in MAY_IMPORT.items():
        assert files_of(package), package
        for path in files_of(package):
            assert imported_by(path) & OURS <= allowed, path


def test_what_serves_reaches_no_training_library():
    for package in ("forecasting", "services", "protos"):
        for path in files_of(package):
            assert not imported_by(path) & TRAINING_ONLY, path


def test_forecasting_knows_no_transport():
    assert not [p for p in files_of("forecasting") if imported_by(p) & {"grpc", "grpc_health", "google"}]


def test_one_file_imports_ray():
    assert [p.name for p in files_of("trainer") if "ray" in imported_by(p)] == ["parallel.py"]


def test_the_reader_of_imports_sees_a_planted_one(tmp_path):
    planted = tmp_path / "planted.py"
    planted.write_text("def f():\n    from torch import nn\n    import ray.util\n")
    assert imported_by(planted) == {"torch", "ray"}
