# Stand-in of the official `postgres` image: Debian's server behind the same variables
# (POSTGRES_USER, POSTGRES_DB, POSTGRES_PASSWORD_FILE), folders and user number.
ARG BASE=millrace-test/debian:bookworm
# hadolint ignore=DL3006 # the base is named by the argument
FROM ${BASE}

# hadolint ignore=DL3008 # what Debian has today is what is stood in with
RUN groupadd --gid 999 postgres \
    && useradd --uid 999 --gid 999 --home-dir /var/lib/postgresql --shell /bin/bash postgres \
    && apt-get update -qq \
    && apt-get install -y -qq --no-install-recommends postgresql postgresql-client \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt /var/lib/postgresql \
    && mkdir -p /var/lib/postgresql/data /var/run/postgresql \
    && chown -R postgres:postgres /var/lib/postgresql /var/run/postgresql \
    && chmod 1777 /var/lib/postgresql/data \
    && ln -s /usr/lib/postgresql/*/bin/* /usr/local/bin/
ENV PGDATA=/var/lib/postgresql/data
COPY postgres-entrypoint /usr/local/bin/docker-entrypoint.sh
VOLUME /var/lib/postgresql/data
USER 999:999
STOPSIGNAL SIGINT
EXPOSE 5432
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["postgres"]
