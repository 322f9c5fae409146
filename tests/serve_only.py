"""Run in an environment with the serve extra alone: everything that serves imports, and nothing that trains is there.

python -m tests.serve_only
"""

import importlib
import importlib.util
import pkgutil
import sys

import forecasting
import protos
import services

NOT_HERE = ("torch", "transformers", "ray", "onnx", "matplotlib", "mlflow", "pandas", "pyarrow")
NEEDS_MORE = {
    "protos.generate",  # grpcio-tools, which developers have
    "forecasting.registry",  # MLflow: publishing belongs to training
    "forecasting.readers.datasets",  # pandas: the service reads no files of people
    "forecasting.readers.ohio",
    "forecasting.readers.tidy",
    "services.demo",
}


def main() -> None:
    """Import every module of ours that serves; exit 1 where one fails or where training libraries are present."""
    present = [name for name in NOT_HERE if importlib.util.find_spec(name)]
    if present:
        sys.exit(f"this environment holds {', '.join(present)}; it is not a serve-only one")
    count = 0
    for package in (forecasting, protos, services):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if module.name not in NEEDS_MORE and not module.name.endswith("__main__"):
                importlib.import_module(module.name)
                count += 1
    print(f"{count} passed, 0 failed")


if __name__ == "__main__":
    main()
