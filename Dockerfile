# syntax=docker/dockerfile:1
# The gateway with ONNX Runtime, without a model.
#
#   docker build -t inference-gateway .

ARG RUST_VERSION=1.95.0
ARG DEBIAN=bookworm

FROM rust:${RUST_VERSION}-slim-${DEBIAN} AS build
WORKDIR /build
RUN apt-get update && apt-get install --yes --no-install-recommends make python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
COPY scripts scripts
RUN python3 scripts/prepare.py library
COPY Cargo.toml Cargo.lock rust-toolchain.toml ./
COPY src src
COPY tests tests
COPY benches benches
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/build/target \
    cargo build --profile dist --locked --bin inference-gateway \
    && cp target/dist/inference-gateway /usr/local/bin/inference-gateway

FROM debian:${DEBIAN}-slim
RUN apt-get update && apt-get install --yes --no-install-recommends ca-certificates libstdc++6 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /usr/local/bin/inference-gateway /usr/local/bin/inference-gateway
COPY --from=build /build/prepared/lib/libonnxruntime.so /usr/local/lib/libonnxruntime.so
USER 65532:65532
ENV HOME=/tmp
EXPOSE 3000 3001
ENTRYPOINT ["/usr/local/bin/inference-gateway"]
