# syntax=docker/dockerfile:1
# Builds narrows and puts it, alone, on a small Debian. No shell is needed to run it.

FROM rust:1.95-slim-trixie AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY cmd cmd
COPY lua lua
COPY src src
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin narrows \
    && cp target/release/narrows /usr/local/bin/narrows

FROM debian:trixie-slim
# The roots against which https:// requests are verified. (Tunnels need none.)
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /usr/local/bin/narrows /usr/local/bin/narrows

LABEL org.opencontainers.image.title="narrows" \
      org.opencontainers.image.description="A forward proxy that caps connections per destination host, for one process or a whole fleet" \
      org.opencontainers.image.licenses="MIT"

USER 65532:65532
# Inside a container loopback is nobody's: which of the ports are published decides who gets in.
# The admin port stays on loopback, for the health check; NARROWS_ADMIN_BIND=0.0.0.0 opens it.
ENV NARROWS_BIND=0.0.0.0
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["narrows", "health"]
ENTRYPOINT ["narrows"]
