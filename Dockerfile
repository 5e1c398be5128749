# The gateway as an image: docker build -t fastagent:latest . (docs/deploy.md has the rest).
# It keeps to what the classic builder, BuildKit, Podman and Buildah all know.

# What the package needs, and its build, as lists: the layers below change only when these do.
FROM python:3.11-slim-bookworm AS requirements
WORKDIR /build
COPY pyproject.toml ./
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
    >requirements.txt && \
    python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['build-system']['requires'], sep='\n')" \
    >build-requirements.txt

# The virtual environment, without pip, and without the gateway.
FROM python:3.11-slim-bookworm AS dependencies
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ONLY_BINARY=:all: \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
RUN python -m venv --without-pip /opt/fastagent
COPY constraints.txt ./
# An index with CPU builds of torch; without it, the ordinary index is asked, whose build for Linux is a large CUDA one.
ARG TORCH_INDEX_URL
# torch by itself, so that the other index supplies nothing else; its dependencies come with the others'.
RUN pip --python /opt/fastagent/bin/python install --no-deps \
    ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} --constraint constraints.txt torch
COPY --from=requirements /build/requirements.txt ./
RUN pip --python /opt/fastagent/bin/python install --constraint constraints.txt --requirement requirements.txt && \
    pip --python /opt/fastagent/bin/python check

# The wheel, installed beside the environment: a small layer, and the only one that a change of source makes anew.
FROM dependencies AS gateway
COPY --from=requirements /build/build-requirements.txt ./
RUN pip install --constraint constraints.txt --requirement build-requirements.txt
# .dockerignore lets through what the wheel is made of, and nothing else.
COPY . ./
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /build/dist . && \
    pip --python /opt/fastagent/bin/python install --no-deps --root /built /build/dist/*.whl

# The shared libraries that the packages don't bring (C, C++, zlib) are all in the base image: nothing to install.
# tests/deploy holds that.
FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="FastAgent" \
      org.opencontainers.image.description="A telephony-first media gateway for voice agents." \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 fastagent && \
    useradd --uid 10001 --gid 10001 --no-log-init --no-create-home --home-dir /tmp --shell /usr/sbin/nologin fastagent
COPY --from=dependencies /opt/fastagent /opt/fastagent
COPY --from=gateway /built/opt/fastagent /opt/fastagent
# Nothing is written at run time: pip has compiled the modules, and HOME is the one place that a library may use.
ENV PATH=/opt/fastagent/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    FASTAGENT_AGENTS=/agents
WORKDIR /agents
# By number, so that an orchestrator sees that it is not root.
USER 10001:10001
EXPOSE 8000
# Alive, not ready: who replaces unhealthy containers must not replace one that drains. And past any HTTP_PROXY.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-Ic", "import http.client, os, sys; gateway = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('PORT') or 8000), timeout=4); gateway.request('GET', '/livez'); sys.exit(gateway.getresponse().status != 200)"]
# Calls go on for up to FASTAGENT_DRAIN_SECONDS: give `docker stop` a longer time than its ten seconds.
STOPSIGNAL SIGTERM
ENTRYPOINT ["fastagent"]
CMD ["serve"]
