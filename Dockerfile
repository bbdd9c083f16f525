# docker build -t noisebench .                        CPU
# docker build -t noisebench --build-arg INDEX= .     CUDA, PyPI's version; or another one, as in INDEX=cu126
# docker run --rm -v "$PWD:/work" --user "$(id -u):$(id -g)" noisebench run smoke
# With CUDA add --gpus all; with --workers or several GPUs add --ipc=host.
FROM python:3.12-slim
ARG INDEX=cpu
# hadolint ignore=DL3013
RUN pip install --no-cache-dir torch torchvision ${INDEX:+--index-url "https://download.pytorch.org/whl/$INDEX"}
COPY . /src
ARG VERSION=0.2.0
RUN SETUPTOOLS_SCM_PRETEND_VERSION_FOR_NOISEBENCH="$VERSION" pip install --no-cache-dir "/src[plot]" && rm -rf /src
WORKDIR /work
# with --user there is no other home
ENV HOME=/tmp NOISEBENCH_DATA=/work/data
ENTRYPOINT ["noisebench"]
