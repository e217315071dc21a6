# One image for the Prefect server, the workers, setup and flow runs (documentation/containers.md).
#
#   uv run millrace image
#
# builds it with the right version, labels and base images, on any Docker engine since 20.10, with
# or without BuildKit. Release builds name both base images by digest.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
ARG UV_IMAGE=astral/uv:0.13.8

# hadolint ignore=DL3006 # the argument carries the tag or digest
FROM ${UV_IMAGE} AS uv

# hadolint ignore=DL3006 # the argument carries the tag or digest
FROM ${PYTHON_IMAGE} AS build
COPY --from=uv /uv /usr/local/bin/uv
ENV UV_PYTHON_DOWNLOADS=never \
    UV_LINK_MODE=copy \
    UV_NO_CACHE=1 \
    DO_NOT_TRACK=1
# Custom package index and certificates, in the variables that uv reads. They stay in this stage.
ARG UV_DEFAULT_INDEX
ARG SSL_CERT_FILE

WORKDIR /opt/millrace
COPY requirements.lock infrastructure/platforms/docker/trim-packages /tmp/
# The lock file is complete, so uv resolves nothing and verifies every hash. Packages are trimmed
# in the layer that installs them, and compiled after that; compileall fails on templates in
# packages that are not valid Python. The .pth file makes the project importable from its folder.
RUN uv venv --quiet --python "$(command -v python3)" /opt/venv \
    && uv pip install --quiet --python /opt/venv/bin/python --no-deps --require-hashes \
        --requirement /tmp/requirements.lock \
    && site_packages=$(/opt/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') \
    && /tmp/trim-packages "$site_packages" \
    && echo /opt/millrace > "$site_packages/millrace.pth" \
    && printf '#!/opt/venv/bin/python\nfrom infrastructure.cli import main\nmain()\n' > /opt/venv/bin/millrace \
    && chmod 755 /opt/venv/bin/millrace \
    && { /opt/venv/bin/python -m compileall -qq -j 0 "$site_packages" || true; }

COPY prefect.yaml millrace.toml pyproject.toml LICENSE ./
COPY infrastructure infrastructure
COPY prefect_flows prefect_flows
COPY dbt dbt
# Terraform's `dbt_targets` as JSON, without secrets: the targets to parse the project for.
ARG DBT_TARGETS
RUN /opt/venv/bin/python -m compileall -q prefect_flows infrastructure \
    && MILLRACE_PROJECT_DIR=/opt/millrace \
        /opt/venv/bin/python -m infrastructure.platforms.docker.parse_project /opt/millrace/parsed \
    && rm -rf dbt/logs dbt/target

# hadolint ignore=DL3006 # the argument carries the tag or digest
FROM ${PYTHON_IMAGE}
# A new volume takes owner and mode from this folder.
RUN groupadd --gid 10001 millrace \
    && useradd --uid 10001 --gid 10001 --home-dir /var/lib/millrace --no-create-home \
        --shell /usr/sbin/nologin millrace \
    && install --directory --owner 10001 --group 10001 --mode 0700 /var/lib/millrace
COPY --from=build /opt/venv /opt/venv
COPY --from=build /opt/millrace /opt/millrace
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/var/lib/millrace \
    MILLRACE_PROJECT_DIR=/opt/millrace \
    MILLRACE_LOCAL_DIR=/var/lib/millrace \
    MILLRACE_PARSED_DIR=/opt/millrace/parsed \
    PREFECT_HOME=/var/lib/millrace/prefect \
    PREFECT_SERVER_UI_STATIC_DIRECTORY=/tmp/prefect-ui \
    PREFECT_SERVER_ANALYTICS_ENABLED=false \
    RUNTIME__DLTHUB_TELEMETRY=false \
    DO_NOT_TRACK=1
WORKDIR /opt/millrace
USER 10001:10001
VOLUME /var/lib/millrace
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 \
    CMD ["python", "-m", "infrastructure.platforms.docker.health"]
ENTRYPOINT ["/opt/millrace/infrastructure/platforms/docker/entrypoint"]
CMD ["prefect", "version"]

# Last, so that a new commit does not invalidate the layers above.
ARG MILLRACE_VERSION=unversioned
ARG REVISION
ARG CREATED
ARG SOURCE
ARG BASE_NAME
ENV MILLRACE_VERSION=${MILLRACE_VERSION}
LABEL org.opencontainers.image.title="millrace" \
    org.opencontainers.image.description="A dbt project that Prefect runs" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${MILLRACE_VERSION}" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.created="${CREATED}" \
    org.opencontainers.image.source="${SOURCE}" \
    org.opencontainers.image.base.name="${BASE_NAME}"
