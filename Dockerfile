# Manifold Atlas in a container. Two targets:
#
#   docker build --target cpu  -t manifold-atlas:cpu  .
#   docker build --target cuda -t manifold-atlas:cuda .
#   docker run --rm -p 5006:5006 -p 8000:8000 -v atlas:/data manifold-atlas:cpu
#   docker run --rm --gpus all -p 5006:5006 -p 8000:8000 -v atlas:/data manifold-atlas:cuda
#
# For the small CPU-only build of torch, name PyTorch's CPU wheel index (see pytorch.org, "Get started"):
#   docker build --target cpu --build-arg TORCH_INDEX=<that index> -t manifold-atlas:cpu .

FROM python:3.11-slim AS base
ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    ATLAS_HOME=/data \
    ATLAS_ASSETS=/srv/atlas/assets \
    ATLAS_HOST=0.0.0.0 \
    HF_HOME=/data/huggingface
RUN useradd --create-home atlas && mkdir -p /data && chown atlas /data
WORKDIR /srv/atlas
COPY pyproject.toml README.md LICENSE ./
COPY backend backend
COPY app app
COPY assets assets
VOLUME /data
EXPOSE 5006 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=180s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/v1/health', timeout=4)"]

FROM base AS cpu
ARG TORCH_INDEX=""
RUN pip install ${TORCH_INDEX:+--index-url $TORCH_INDEX} torch==2.13.0 && pip install -e .
ENV ATLAS_DEVICE=cpu
USER atlas
CMD ["manifold-atlas", "run"]

# The wheel on the default index carries CUDA's libraries itself, so a plain Python image and the host's driver are enough.
FROM base AS cuda
RUN pip install torch==2.13.0 && pip install -e ".[gpu]"
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER atlas
CMD ["manifold-atlas", "run"]
