# The image that trials run in, with the versions of constraints.txt (docs/how-to/kubernetes.md). For a CPU:
#
#   docker build --build-arg DEVICE=cpu -t registry.example.org/nni-plugins:cpu .
#
# and, by default, for NVIDIA GPUs: torch's own build carries CUDA, and the node's driver is all that it needs besides.
FROM python:3.11-slim

ARG DEVICE=gpu

ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1

RUN pip install uv

WORKDIR /opt/nni-plugins
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY nni_plugins nni_plugins
COPY search_spaces search_spaces

# uv and not pip: it resolves a CPU build of torch and a torchvision that fits it.
RUN case "$DEVICE" in \
      cpu) backend="--torch-backend cpu" ;; \
      gpu) backend="" ;; \
      *) echo "DEVICE must be cpu or gpu, got $DEVICE" >&2; exit 1 ;; \
    esac \
    && uv pip install --system --no-cache $backend --constraint constraints.txt . \
    && python -c "import nni, torch, nni_plugins; print(torch.__version__)"

# A trial's own folder comes first on Python's path, so that code that NNI uploads goes before what is installed here.
WORKDIR /workspace
CMD ["nni-plugins", "--help"]
