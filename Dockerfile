# ofa-tvm for CPUs, without CUDA. Build it in a checkout, and work in a folder of your own:
#   docker build -t ofa-tvm .
#   docker run --rm -v "$PWD":/work ofa-tvm quickstart -o demo
FROM python:3.11-slim AS wheel
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY ofa_tvm ofa_tvm
COPY targets targets
COPY tuning_logs tuning_logs
RUN pip wheel --no-cache-dir --no-deps -w /wheel .

FROM python:3.11-slim
# What links compiled networks.
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
COPY constraints.txt /tmp/
# PyTorch's build for CPUs comes first: the usual one brings some 6 GB of CUDA libraries.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --no-cache-dir --extra-index-url ${TORCH_INDEX} -c /tmp/constraints.txt torch
COPY --from=wheel /wheel /tmp/wheel
RUN pip install --no-cache-dir -c /tmp/constraints.txt /tmp/wheel/*.whl \
    && useradd --create-home ofa \
    && install -d -o ofa /work
USER ofa
WORKDIR /work
ENTRYPOINT ["ofa-tvm"]
CMD ["--help"]
