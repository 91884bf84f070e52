# SPDX-License-Identifier: Apache-2.0
# The delivery server without PyTorch, which it never imports:
#   docker build --tag pocketrec .
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
RUN python -m venv /opt/pocketrec
ENV PATH="/opt/pocketrec/bin:$PATH"
COPY pyproject.toml README.md LICENSE ./
COPY sdk sdk
COPY proto proto
COPY quantization quantization
COPY cloud cloud
COPY device device
RUN pip install --no-cache-dir --disable-pip-version-check ".[server,s3,tracing]"

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="pocketrec" \
      org.opencontainers.image.description="Delivery server: signed bundles and plans for devices" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 pocketrec \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent pocketrec \
 && install --directory --owner 10001 --group 10001 /var/lib/pocketrec
COPY --from=build /opt/pocketrec /opt/pocketrec
ENV PATH="/opt/pocketrec/bin:$PATH" \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
VOLUME /var/lib/pocketrec
EXPOSE 50051 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
  CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:9464/healthz', timeout=4)"]
ENTRYPOINT ["pocketrec"]
CMD ["serve", "--store", "/var/lib/pocketrec", "--keys", "/run/secrets/pocketrec", "--host", "0.0.0.0", "--tls-cert", "/run/secrets/tls/server.crt", "--tls-key", "/run/secrets/tls/server.key", "--metrics-host", "0.0.0.0", "--metrics-port", "9464", "--log-format", "json"]
