# syntax=docker/dockerfile:1
# Builds narrows and puts it, alone, on nothing: the image has no shell, no package manager and no file
# that narrows does not read. It writes none either: run it with a read-only root.

FROM rust:1.95-slim-trixie AS build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY cmd cmd
COPY lua lua
COPY src src
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin narrows \
    && cp target/release/narrows /usr/local/bin/narrows
# Beside the program: the libraries it is linked to; the roots against which https:// requests are
# verified (tunnels need none); and the order in which the system's resolver looks names up.
WORKDIR /image
RUN mkdir -p etc/ssl/certs tmp usr/local/bin \
    && cp /usr/local/bin/narrows usr/local/bin/ \
    && ldd /usr/local/bin/narrows | grep -o '/[^ ]*' | xargs cp -L --parents -t . \
    && cp -L /etc/ssl/certs/ca-certificates.crt etc/ssl/certs/ \
    && echo 'hosts: files dns' > etc/nsswitch.conf \
    && chmod 1777 tmp

FROM scratch
COPY --from=build /image /

LABEL org.opencontainers.image.title="narrows" \
      org.opencontainers.image.description="A forward proxy that caps connections per destination host, for one process or a whole fleet" \
      org.opencontainers.image.licenses="MIT"

USER 65532:65532
# Inside a container loopback is nobody's: which of the ports are published decides who gets in.
# The admin port stays on loopback, for the health check; NARROWS_ADMIN_BIND=0.0.0.0 opens it.
ENV NARROWS_BIND=0.0.0.0 PATH=/usr/local/bin
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["/usr/local/bin/narrows", "health"]
ENTRYPOINT ["/usr/local/bin/narrows"]
