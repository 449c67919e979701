# EduFast on CPUs: docker build -t edufast . && docker run --rm -v runs:/runs edufast train quickstart
# Several processes: docker run --rm --entrypoint torchrun edufast --nproc-per-node 2 -m edufast train quickstart
FROM python:3.11-slim

RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*

# An index of CPU builds of torch makes the image several gigabytes smaller.
ARG PIP_EXTRA_INDEX_URL
WORKDIR /source
COPY . .
RUN CMAKE_ARGS=-DEDUFAST_CUDA=OFF pip install --no-cache-dir ".[train,export]"

WORKDIR /
VOLUME /runs
ENTRYPOINT ["edufast"]
