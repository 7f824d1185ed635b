# Stands in for the official image where no image registry is reachable: same port, user and POSTGRES_PASSWORD.
ARG BASE_IMAGE=debian:trixie-slim
FROM ${BASE_IMAGE}
RUN apt-get update && apt-get install --yes --no-install-recommends postgresql && rm -rf /var/lib/apt/lists/* \
 && ln -s /usr/lib/postgresql/*/bin/* /usr/local/bin/ 2>/dev/null || true; \
    install -d -o postgres -g postgres /var/lib/postgresql/data /var/run/postgresql
COPY postgres-start.sh /usr/local/bin/postgres-start
USER postgres
ENV PGDATA=/var/lib/postgresql/data/kairos
EXPOSE 5432
ENTRYPOINT ["/bin/sh", "/usr/local/bin/postgres-start"]
