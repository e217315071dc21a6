# Stand-in of `python:3.11-slim-bookworm`: Debian's Python on a bare Debian, with pip under
# /usr/local as in the official image. `base` is made by debootstrap (tests/support/base_images/make).
ARG BASE=millrace-test/debian:bookworm
# hadolint ignore=DL3006 # the base is named by the argument
FROM ${BASE}

# Whose certificates the machine trusts: an index in a company is often behind its own.
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY pip /tmp/pip
# Documents and translations go, as they do from the official slim image.
# hadolint ignore=DL3008 # what Debian has today is what is stood in with
RUN apt-get update -qq \
    && apt-get install -y -qq --no-install-recommends python3 tzdata netbase \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt /usr/share/doc /usr/share/man /usr/share/locale \
        /usr/lib/python3.11/EXTERNALLY-MANAGED \
    && ln -s /usr/bin/python3 /usr/local/bin/python \
    && python3 /tmp/pip/pip.whl/pip install --quiet --ignore-installed --no-index --find-links /tmp/pip/wheels pip \
    && rm -rf /tmp/pip
CMD ["python3"]
