# Goloves as an image: `docker build -t goloves .` in a clone of the repository. What was built is told by
# `--build-arg REVISION=$(git rev-parse HEAD) --build-arg CREATED=$(git log -1 --format=%cI) --build-arg SOURCE=…`.
#
# State lies in /var/lib/goloves: the embedded store, if that is used, and the node's marks. Mount a volume there. Nothing
# is made by itself: a store that is missing is an error, since it may be a volume that was not mounted. Make a new one
# with `migrate`, once:
#
#     docker run --rm --volume goloves:/var/lib/goloves goloves migrate
#     docker run --detach --stop-timeout 30 --read-only --tmpfs /tmp --cap-drop ALL \
#         --security-opt no-new-privileges --volume goloves:/var/lib/goloves \
#         --publish 127.0.0.1:8080:8080 --publish 127.0.0.1:50051:50051 goloves
#
# `--stop-timeout`: Docker kills after 10 s, and a drain (server.drain: 5 s) with the release of windows may take 10 s;
# the worker ids of a node that was killed rest for a window.

# Any Debian with Python 3.11 or newer will do.
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS build
# What builds leaves no trace in the image; the newest of it is right.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv
WORKDIR /src
COPY requirements/server.txt requirements/
# The environment that is shipped has no pip. gRPC's own library is for clients in Python, and what builds is not needed
# any more once Goloves is installed.
RUN python3 -m venv /build \
    && python3 -m venv --without-pip /opt/goloves \
    && /build/bin/pip --python /opt/goloves/bin/python install --no-cache-dir --no-compile --no-deps \
        --require-hashes -r requirements/server.txt
COPY pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY src src
RUN /build/bin/pip --python /opt/goloves/bin/python install --no-cache-dir --no-compile --no-deps --no-index \
        --no-build-isolation . \
    && /build/bin/pip --python /opt/goloves/bin/python uninstall --yes \
        grpcio hatchling editables pathspec pluggy tomlkit trove-classifiers \
    && /build/bin/pip --python /opt/goloves/bin/python check \
    && find /opt/goloves -name tests -type d -prune -exec rm -rf {} + \
    # What machine code was made from: 14 MB that nothing reads.
    && find /opt/goloves -type f '(' -name '*.c' -o -name '*.cpp' -o -name '*.pyx' ')' -delete \
    # With the root read-only, Python can't keep what it compiles: it is compiled here, and checked by content.
    && python3 -m compileall -q --invalidation-mode unchecked-hash /opt/goloves/lib

FROM ${BASE}
ARG VERSION=0.1.0
ARG REVISION=
ARG CREATED=
ARG SOURCE=
LABEL org.opencontainers.image.title="Goloves" \
      org.opencontainers.image.description="Unique 64-bit ids over HTTP and gRPC, never the same id twice" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.licenses="Apache-2.0"
# The distribution's own Python is renewed with it.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log \
    && useradd --system --uid 10001 --user-group --home-dir /var/lib/goloves --shell /usr/sbin/nologin goloves \
    && install -d -o 10001 -g 10001 -m 0750 /var/lib/goloves
COPY --from=build /opt/goloves /opt/goloves
COPY deployments/docker/goloves.toml /etc/goloves/goloves.toml
ENV PATH=/opt/goloves/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    GOLOVES_CONFIG=/etc/goloves/goloves.toml \
    PYTHONDONTWRITEBYTECODE=1
# By number, so that Kubernetes can see that it is not root.
USER 10001:10001
WORKDIR /var/lib/goloves
VOLUME /var/lib/goloves
# HTTP and gRPC.
EXPOSE 8080 50051
STOPSIGNAL SIGTERM
# Whether the process answers, and not whether it is ready: a new container mends no store that is away.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/healthz', timeout=2)"]
ENTRYPOINT ["goloves"]
CMD ["serve"]
