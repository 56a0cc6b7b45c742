# The gateway with ONNX Runtime: no shell, no package manager, no model. docs/release.md explains every argument.
#
#   make image            with docker, podman or buildah, whichever is there
#   docker build --tag inference-gateway .

# Pin the base by digest with --build-arg RUST_IMAGE=docker.io/library/rust:1.95.0-slim-trixie@sha256:…
ARG RUST_IMAGE=docker.io/library/rust:1.95.0-slim-trixie
# Another ONNX Runtime, for a GPU say: an image with a folder /onnxruntime, in it libonnxruntime.so and what it loads.
ARG ONNXRUNTIME=library

# Compiles on the machine that builds, for TARGETARCH: nothing is emulated.
FROM --platform=$BUILDPLATFORM ${RUST_IMAGE} AS tools
ARG TARGETARCH
WORKDIR /build
COPY scripts/image/toolchain.sh scripts/image/
RUN sh scripts/image/toolchain.sh /build/target.env

FROM tools AS library
COPY scripts/prepare.py scripts/
COPY scripts/preparation scripts/preparation
RUN --mount=type=cache,target=/root/.cache/inference-gateway \
    . /build/target.env && python3 scripts/prepare.py --machine "$MACHINE" library && cp -r prepared/lib /onnxruntime

# By this name the rest has it: the stage of a COPY cannot be an argument.
FROM ${ONNXRUNTIME} AS onnxruntime

FROM tools AS build
COPY Cargo.toml Cargo.lock ./
COPY src src
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/build/target \
    . /build/target.env && cargo build --profile dist --locked --target "$TARGET" --bin inference-gateway \
    && cp "target/$TARGET/dist/inference-gateway" inference-gateway.whole
# Names of functions stay in the program. Lines, four fifths of its size, are given out with the release.
RUN . /build/target.env \
    && "$TRIPLET-objcopy" --only-keep-debug inference-gateway.whole inference-gateway.debug \
    && "$TRIPLET-objcopy" --strip-debug --add-gnu-debuglink=inference-gateway.debug \
        inference-gateway.whole inference-gateway

# From `library`, so that builders which do not look into arguments know that it is needed.
FROM library AS files
COPY scripts/image/root.py scripts/image/
COPY --from=build /build/inference-gateway ./
COPY --from=onnxruntime /onnxruntime /chosen/
RUN . /build/target.env \
    && python3 scripts/image/root.py --triplet "$TRIPLET" inference-gateway /chosen /image \
    && mkdir /empty

# What a release has beside the image: names of Debian packages for the SBOM, lines for debuggers.
FROM scratch AS beside
COPY --from=files /image/var/lib/dpkg/status.d /records/
COPY --from=build /build/inference-gateway.debug /

FROM scratch
COPY --from=files /image /
COPY --from=files /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY LICENSE /usr/share/doc/inference-gateway/
COPY --from=files --chown=65532:65532 /empty /var/cache/inference-gateway

ENV HOME=/tmp \
    ORT_DYLIB_PATH=/usr/local/lib/libonnxruntime.so \
    INFERENCE_CACHE_DIR=/var/cache/inference-gateway
USER 65532:65532
EXPOSE 3000 3001
ENTRYPOINT ["/usr/local/bin/inference-gateway"]

# What differs with every build comes by --label (`make image`): as arguments, buildah would take them from its cache.
LABEL org.opencontainers.image.title="Inference Gateway" \
      org.opencontainers.image.description="Text generation with ONNX models as a Kubernetes-native HTTP service" \
      org.opencontainers.image.source="https://github.com/inference-gateway/inference-gateway" \
      org.opencontainers.image.licenses="Apache-2.0"
