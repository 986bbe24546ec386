# The image of the kube-dns replacement: runs as any user, on a read-only root file system.
FROM python:3.11-slim AS build
WORKDIR /src
COPY pyproject.toml README.md ./
COPY clusterdns clusterdns
COPY zones zones
RUN python -m venv /clusterdns && /clusterdns/bin/pip install --no-cache-dir .

FROM python:3.11-slim
COPY --from=build /clusterdns /clusterdns
# Port 53 without root: the bounding set of the Pod must hold NET_BIND_SERVICE, as CoreDNS's does.
RUN apt-get update && apt-get install -y --no-install-recommends libcap2-bin \
    && setcap cap_net_bind_service=+ep "$(readlink -f /clusterdns/bin/python)" \
    && apt-get purge -y --auto-remove libcap2-bin && rm -rf /var/lib/apt/lists/*
USER 65532:65532
WORKDIR /
EXPOSE 53 53/udp 8080 8181 9153
ENTRYPOINT ["/clusterdns/bin/clusterdns"]
