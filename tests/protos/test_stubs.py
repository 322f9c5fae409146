"""Stubs are what their protos say."""

from protos.generate import ROOT, generate, protos


def test_generating_the_stubs_again_changes_no_byte(tmp_path):
    generate(tmp_path)
    made = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert len(made) == 3 * len(protos())
    for path in made:
        assert (ROOT / path).read_bytes() == (tmp_path / path).read_bytes(), f"{path} is stale: make protos"


def test_every_stub_in_the_tree_belongs_to_a_proto():
    stubs = {
        path.name.split("_pb2")[0] for path in (ROOT / "protos").rglob("*_pb2*.py*") if "__pycache__" not in str(path)
    }
    assert stubs == {path.stem for path in protos()}
