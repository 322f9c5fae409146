#!/usr/bin/env bash
# The whole path in one command: bash distill_pipeline.sh --teacher bert --student tinybert --patients 570 --dataset ohiot1dm
python=${PYTHON:-$(dirname "$0")/.venv/bin/python}
if ! command -v "$python" >/dev/null; then
  echo "error: there is no $python; run 'make install' first, or set PYTHON" >&2
  exit 1
fi
exec "$python" -m trainer pipeline "$@"
