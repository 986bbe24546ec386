# The image of the kube-dns replacement: Debian's Python, clusterdns, no shell and no package manager.
# Runs as any user on a read-only root file system; of all capabilities it uses NET_BIND_SERVICE.
#
# Pin the base for a release, and date what is built of it:
#   docker build --build-arg BASE=debian:12-slim@sha256:... \
#     --build-arg SOURCE_DATE_EPOCH="$(git log -1 --format=%ct)" -t clusterdns .
# Where no engine is: deploy/image/assemble.sh makes the same tree, deploy/image/run.sh starts it.
ARG BASE=debian:12-slim

FROM ${BASE} AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev libcap2-bin python3-pip
WORKDIR /src
COPY deploy/image deploy/image
COPY clusterdns clusterdns
COPY pyproject.toml setup.py README.md LICENSE ./
COPY zones zones
ARG SOURCE_DATE_EPOCH=0
RUN SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH} deploy/image/assemble.sh /image /var/cache/clusterdns-image

FROM scratch
COPY --from=build /image /
USER 65532:65532
WORKDIR /
EXPOSE 53 53/udp 8080 8181 9153
ENTRYPOINT ["/usr/bin/python3.11", "-I", "-m", "clusterdns"]
