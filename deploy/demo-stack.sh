#!/usr/bin/env bash
# `make demo-stack`: a sweep in the stack publishes a student, inference picks it up, a client asks, Prometheus counts.
# The stack must be up with its profile `train`; COMPOSE is how it is reached.
set -euo pipefail
cd "$(dirname "$0")/.."
stack() { ${COMPOSE:-docker compose -f deploy/compose.yaml} --profile train --profile tools "$@"; }
step() { printf '\n== %s\n' "$*"; }

step 'a sweep, submitted to Ray'
stack exec -T ray-head ray job submit --address http://127.0.0.1:8265 -- \
    python -m trainer sweep trainer/runs/stack.toml

step 'inference picks its student up'
for ((second = 0; ; second++)); do
    if stack exec -T inference python -m services.health --service ready; then break; fi
    ((second < 60)) || { echo 'error: inference has no champion after a minute; see its log' >&2; exit 1; }
    sleep 1
done

step 'a client asks for a forecast'
stack run --rm -T client forecast \
    --file data/sim/fixture_small.csv --patient adult_002 --utc-offset-minutes 0

step 'Prometheus has counted it'
for ((second = 0; ; second++)); do
    counted=$(stack exec -T prometheus promtool query instant http://127.0.0.1:9090 \
        'sum(glucose_infer_inferences_total{name="virtual-population"}) > 0')
    if [ -n "$counted" ]; then break; fi
    ((second < 60)) || { echo 'error: Prometheus has counted no forecast after a minute' >&2; exit 1; }
    sleep 1
done
echo "forecasts: $counted"
