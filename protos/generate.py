"""Generate the Python stubs of every .proto, beside it: python -m protos.generate"""

from importlib.resources import as_file, files
from pathlib import Path

from google.rpc import status_pb2
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parents[1]  # imports in stubs are absolute, so protoc's root is Python's


def generate(out: Path) -> None:
    """Write `_pb2.py`, `_pb2.pyi` and `_pb2_grpc.py` of every proto under `out`, in the tree's own folders.

    Raises RuntimeError where protoc refuses a proto; it has then said why on standard error.
    """
    with as_file(files("grpc_tools") / "_proto") as well_known:
        options = [
            f"-I{ROOT}",
            f"-I{well_known}",
            f"-I{Path(status_pb2.__file__).parents[2]}",  # google/rpc/status.proto, of googleapis-common-protos
            *(f"--{kind}_out={out}" for kind in ("python", "pyi", "grpc_python")),
        ]
        if protoc.main(["protoc", *options, *map(str, protos())]):
            raise RuntimeError("protoc refused a proto; see its message above")


def protos() -> list[Path]:
    """Every .proto of this tree, in order of name."""
    return sorted((ROOT / "protos").rglob("*.proto"))


if __name__ == "__main__":
    generate(ROOT)
