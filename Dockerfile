# docker build -t noisebench .                                  CPU
# docker build -t noisebench --build-arg INDEX=cu128 .          CUDA: run with --gpus all
# docker run --rm -v "$PWD:/work" noisebench run smoke
FROM python:3.12-slim
ARG INDEX=cpu
RUN pip install --no-cache-dir torch torchvision --index-url "https://download.pytorch.org/whl/${INDEX}"
COPY . /src
ARG VERSION=0.2.0
RUN SETUPTOOLS_SCM_PRETEND_VERSION_FOR_NOISEBENCH="${VERSION}" pip install --no-cache-dir "/src[plot]" && rm -rf /src
WORKDIR /work
ENV NOISEBENCH_DATA=/work/data
ENTRYPOINT ["noisebench"]
