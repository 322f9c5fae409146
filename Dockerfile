# glucast's images; --target names one:
#
#   docker build --target inference                       -t glucast/inference:0.1.0 .
#   docker build --target registry                        -t glucast/registry:0.1.0 .
#   docker build --target trainer --build-arg TORCH=cpu   -t glucast/trainer:0.1.0 .     (or TORCH=cuda)
#
# Packages are those of deploy/locks, checked by their hashes; `make locks` renews them. For a release, give the base
# image with its digest: --build-arg PYTHON_IMAGE=python:3.11-slim-bookworm@sha256:…
ARG PYTHON_IMAGE=python:3.11-slim-bookworm


# ---- what only builds; none of it is in an image, nor are its arguments

FROM ${PYTHON_IMAGE} AS builder
# Where pip looks, on networks that have an index of their own. torch==…+cpu is not on PyPI: name where it is.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_TRUSTED_HOST
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PIP_REQUIRE_HASHES=1 \
    PIP_ONLY_BINARY=:all:
WORKDIR /build
RUN python3 -m venv --without-pip /opt/venv

FROM builder AS inference-packages
COPY deploy/locks/inference.txt lock.txt
RUN pip --python /opt/venv/bin/python install -r lock.txt

FROM builder AS registry-packages
COPY deploy/locks/registry.txt lock.txt
RUN pip --python /opt/venv/bin/python install -r lock.txt

FROM builder AS trainer-packages
# cpu or cuda. No default: the one is slow where there are GPUs, the other is gigabytes where there are none.
ARG TORCH
COPY deploy/locks/trainer-*.txt ./
RUN test -f "trainer-${TORCH}.txt" || { echo "TORCH is '${TORCH}'; give --build-arg TORCH=cpu or TORCH=cuda"; exit 1; }
RUN pip --python /opt/venv/bin/python install -r "trainer-${TORCH}.txt"

# Compiled here, since the images are read-only where they run.
FROM builder AS inference-source
COPY forecasting /app/forecasting
COPY protos /app/protos
COPY services /app/services
RUN python3 -m compileall -q --invalidation-mode unchecked-hash /app

FROM inference-source AS trainer-source
COPY trainer /app/trainer
COPY data /app/data
RUN python3 -m compileall -q --invalidation-mode unchecked-hash /app/trainer


# ---- the images

FROM ${PYTHON_IMAGE} AS base
RUN groupadd --gid 10001 glucast \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin glucast
# Libraries keep their scratch files in HOME: /tmp, which is the one place that can be written to.
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /app

FROM base AS registry
COPY --from=registry-packages /opt/venv /opt/venv
COPY deploy/images/registry.py /app/registry.py
RUN install -d -o 10001 -g 10001 /var/lib/registry
USER 10001:10001
EXPOSE 5000
ENTRYPOINT ["python", "/app/registry.py"]

FROM base AS trainer
COPY --from=trainer-packages /opt/venv /opt/venv
COPY --from=trainer-source /app /app
RUN install -d -o 10001 -g 10001 /runs
ENV RAY_USAGE_STATS_ENABLED=0 \
    GLUCAST_RUNS=/runs
USER 10001:10001
CMD ["python", "-m", "trainer", "--help"]

# Last, so that it is what a build without --target makes.
FROM base AS inference
COPY --from=inference-packages /opt/venv /opt/venv
COPY --from=inference-source /app /app
RUN install -d -o 10001 -g 10001 /var/cache/glucast
ENV GLUCAST_HOST=0.0.0.0 \
    GLUCAST_CACHE=/var/cache/glucast
USER 10001:10001
EXPOSE 50051 9464
# That it lives. Whether it has a model to answer with is another question, which `--service ready` asks.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 \
    CMD ["python", "-m", "services.health"]
ENTRYPOINT ["python", "-m", "services.inference"]
