# The image of a host of accelerators: the wheel, the pinned packages, JAX for TPUs (FOR=tpu) or for NVIDIA's GPUs (FOR=gpu).
#   docker build --build-arg FOR=tpu -t IMAGE . && docker push IMAGE        TPUs on GKE: tpu/README.md
#   docker build --build-arg FOR=gpu -t IMAGE . && docker run --rm --gpus all IMAGE jaxalign --version --devices
# Hosts need no network to the outside: nothing is installed or downloaded when a run starts. Where pip may ask another index
# only, add --build-arg PIP_INDEX_URL=URL.
# Of GPUs the host brings the driver and NVIDIA's container toolkit; CUDA comes with JAX's own packages.
FROM python:3.12-slim AS wheel
ARG PIP_INDEX_URL
WORKDIR /source
COPY pyproject.toml setup.py README.md LICENSE ./
COPY jaxalign jaxalign
COPY configs configs
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheel .

FROM python:3.12-slim
ARG FOR=tpu
ARG PIP_INDEX_URL
WORKDIR /jaxalign
COPY constraints/python3.12.txt constraints/
COPY --from=wheel /wheel /wheel
# The constraints pin JAX, and with it the libtpu or the CUDA that it was released with.
RUN pip install --no-cache-dir -c constraints/python3.12.txt "$(echo /wheel/*.whl)[$FOR]"
# Pods are given the path that a config has in the repository.
COPY configs configs
