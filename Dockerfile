# Build:  docker build -t wicketgate:0.1.0 .
# Run:    docker run -p 8080:8080 -v "$PWD/config:/etc/wicketgate:ro" wicketgate:0.1.0
# The configuration is config/wicketgate.yaml. Mount its folder, not the file alone: a replaced file is then seen.

FROM rust:1.95-bookworm AS builder
WORKDIR /src
COPY . .
# The two caches keep dependencies between builds; the binary is copied out because a cache is not part of the image.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --locked --profile dist --no-default-features --features mimalloc \
    && cp target/dist/wicketgate /wicketgate

# glibc, libgcc and CA certificates; no shell and no package manager.
FROM gcr.io/distroless/cc-debian12:nonroot

ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Wicketgate" \
      org.opencontainers.image.description="An authenticating reverse proxy that maps routes to the scopes that an OpenID Connect provider granted" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

COPY LICENSE /usr/share/doc/wicketgate/LICENSE
COPY --from=builder /wicketgate /usr/local/bin/wicketgate

ENV WICKETGATE_CONFIG=/etc/wicketgate/wicketgate.yaml
# By number, so that Kubernetes can see that it is not root.
USER 65532:65532
# 9090 is the admin listener. It binds 127.0.0.1 unless the configuration says otherwise.
EXPOSE 8080 9090

# Docker asks this; Kubernetes does not, its probes ask the admin listener.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
    CMD ["/usr/local/bin/wicketgate", "healthcheck"]

ENTRYPOINT ["/usr/local/bin/wicketgate"]
CMD ["run"]
