# The image of a host of accelerators: the wheel, the pinned packages, JAX for TPUs (FOR=tpu) or for NVIDIA's GPUs (FOR=gpu).
#   docker build --build-arg FOR=tpu -t IMAGE . && docker push IMAGE        TPUs on GKE: tpu/README.md
#   docker build --build-arg FOR=gpu -t IMAGE . && docker run --rm --gpus all IMAGE jaxalign --version --devices
# Hosts need no network to the outside: nothing is installed or downloaded when a run starts. Where pip may ask another index
# only, add --build-arg PIP_INDEX_URL=URL.
# The plans in configs/ were compiled with the JAX and the libtpu of constraints/python3.11.txt: with this
# Python the image runs what was planned. --build-arg PYTHON=3.12 takes the newer ones of constraints/python3.12.txt; plan
# again with these first.
# Of GPUs the host brings the driver and NVIDIA's container toolkit; CUDA comes with JAX's own packages.
ARG PYTHON=3.11
FROM python:${PYTHON}-slim AS wheel
ARG PIP_INDEX_URL
WORKDIR /source
COPY pyproject.toml setup.py README.md LICENSE ./
COPY jaxalign jaxalign
COPY configs configs
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheel .

FROM python:${PYTHON}-slim
ARG PYTHON
ARG FOR=tpu
ARG PIP_INDEX_URL
WORKDIR /jaxalign
COPY constraints/python${PYTHON}.txt constraints/
COPY --from=wheel /wheel /wheel
# The constraints pin JAX, jaxlib and libtpu, and what else the tests run with. They do not name what only hosts of GPUs need
# (JAX's CUDA plugins, which JAX asks for in its own version, and NVIDIA's packages below these) nor gcsfs and what it needs:
# these are as new as the day on which the image is built. A run is continued by the image that began it, not by another build.
RUN pip install --no-cache-dir -c constraints/python${PYTHON}.txt "$(echo /wheel/*.whl)[$FOR]"
# Pods are given the path that a config has in the repository.
COPY configs configs
