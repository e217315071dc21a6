# What most guides write, to compare the size of our image with: one stage, a compiler in case a
# package has no wheel, everything copied, pip with its cache.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
# hadolint ignore=DL3006 # the argument carries the tag or digest
FROM ${PYTHON_IMAGE}
# hadolint ignore=DL3008,DL3009,DL3015
RUN apt-get update && apt-get install -y build-essential git
WORKDIR /app
COPY . .
# `--no-deps` is not naive: the lock leaves out one package that no image can build offline.
# hadolint ignore=DL3042
RUN pip install --no-deps -r requirements.lock
ENV PYTHONPATH=/app
CMD ["python", "-m", "prefect_flows.pipeline"]
