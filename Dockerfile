# The images of this project: the node agent's and the webhook's.
#
#   docker build --target agent --tag kuik-agent .
#   docker build --target webhook --tag kuik-webhook .
#   docker run --network host --volume kuik:/var/lib/kuik kuik-agent
#
# It needs BuildKit, for the cache mounts. The agent listens on loopback unless KUIK_LISTEN says otherwise, hence the host's network.
#
# Checked: both targets built by Docker 20.10 with BuildKit, and the agent run as above, with a named volume and with a host's directory
# under --user. The base was bookworm with Rust 1.95 laid out as in the official image, not that image. Checked outside an engine: that a
# static program of this libc resolves names by DNS and /etc/hosts in a root with nothing in it. The last two stages are what
# scripts/build-images packs and the cluster tests run. Not checked: a whole build by buildah or podman, or for another architecture.

ARG RUST_IMAGE=rust:1.95-bookworm

# ---- The programs, linked statically against glibc ----------------------------------------------
FROM ${RUST_IMAGE} AS builder
WORKDIR /src
ENV RUSTFLAGS="-C target-feature=+crt-static" \
    CARGO_PROFILE_RELEASE_STRIP=debuginfo

# The dependencies, with empty crates around them: a layer that lasts until a manifest or the lock file changes.
# With --target the flags above are the programs' alone: procedural macros cannot be static. One package at a time: together they
# would get each other's features.
COPY Cargo.toml Cargo.lock ./
COPY crd/Cargo.toml crd/
COPY agent/Cargo.toml agent/
COPY webhook/Cargo.toml webhook/
COPY e2e/Cargo.toml e2e/
RUN mkdir -p crd/src/bin agent/src webhook/src e2e/src e2e/tests/cluster \
    && touch crd/src/lib.rs agent/src/lib.rs webhook/src/lib.rs e2e/src/lib.rs \
    && for main in agent/src webhook/src e2e/tests/cluster; do echo 'fn main() {}' >"$main/main.rs"; done \
    && echo 'fn main() {}' >crd/src/bin/crdgen.rs
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    host="$(rustc -vV | sed -n 's/^host: //p')" \
    && for name in agent webhook; do \
        cargo build --locked --release --package "kuik-$name" --target "$host" || exit; \
    done

# The programs themselves. COPY keeps the times of the files, and cargo would take them for older than what it has just built.
COPY crd/src crd/src
COPY agent/src agent/src
COPY webhook/src webhook/src
RUN find crd agent webhook -name '*.rs' -exec touch {} +
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    host="$(rustc -vV | sed -n 's/^host: //p')" \
    && mkdir -p /out/data \
    && for name in agent webhook; do \
        cargo build --locked --release --package "kuik-$name" --target "$host" \
        && install "target/$host/release/kuik-$name" /out/ || exit; \
    done

# ---- The agent ----------------------------------------------------------------------------------
FROM scratch AS agent
LABEL org.opencontainers.image.title="kuik-agent" \
      org.opencontainers.image.description="kube-image-keeper's node agent: a pull-through OCI registry on every node" \
      org.opencontainers.image.licenses="MIT"
# The public authorities are in the program; this bundle is the place to add one's own by a mount.
COPY --from=builder /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=builder /out/kuik-agent /kuik-agent
COPY LICENSE /LICENSE
# A named volume takes over the owner of the directory it is mounted on. A directory of the host does not: it must belong to 65532,
# or the container must run as who it belongs to (--user).
COPY --from=builder --chown=65532:65532 /out/data /var/lib/kuik
VOLUME /var/lib/kuik
USER 65532:65532
# 7439: pulls. 7441: probes, metrics and the command line.
EXPOSE 7439 7441
ENTRYPOINT ["/kuik-agent"]
CMD ["serve"]

# ---- The webhook --------------------------------------------------------------------------------
FROM scratch AS webhook
LABEL org.opencontainers.image.title="kuik-webhook" \
      org.opencontainers.image.description="kube-image-keeper's admission webhook and control plane" \
      org.opencontainers.image.licenses="MIT"
COPY --from=builder /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=builder /out/kuik-webhook /kuik-webhook
COPY LICENSE /LICENSE
USER 65532:65532
# 8443: admission. 9443: the agents' control API. 8080: probes and metrics.
EXPOSE 8443 9443 8080
ENTRYPOINT ["/kuik-webhook"]
CMD ["serve"]
