#!/usr/bin/env bash
# The whole path in one command: bash distill_pipeline.sh --teacher bert --student tinybert --patients 570 --dataset ohiot1dm
cd "$(dirname "$0")" && exec "${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}" -m trainer pipeline "$@"
