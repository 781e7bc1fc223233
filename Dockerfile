# Two images: `app` serves HTTP and migrates the database, `worker` computes. docker-compose.yml builds both.
# They carry no HEALTHCHECK: each serves several commands, and only the compose file knows which one runs.

# Raise the tag and its digest (of the index for all platforms) together.
FROM python:3.11.15-slim-bookworm@sha256:d29f48a31a8b408ed19272ca1e7b10ebae13b240a27e862d3d4217c528e2e0c3 AS base


FROM base AS dependencies
WORKDIR /src
COPY pyproject.toml constraints.txt ./
# With an empty README and LICENSE this is a project without code that has the same dependencies,
# so that the layers of the two stages below outlive every change of the code.
RUN touch README.md LICENSE && python -m venv --without-pip /opt/nnunet
ENV PIP_PYTHON=/opt/nnunet/bin/python \
    PIP_DISABLE_PIP_VERSION_CHECK=1


FROM dependencies AS wheel
COPY README.md LICENSE ./
COPY app app
COPY core core
COPY migrations migrations
COPY worker worker
RUN pip wheel --no-cache-dir --constraint constraints.txt --no-deps --wheel-dir /wheels .


FROM dependencies AS app-packages
RUN pip install --no-cache-dir --constraint constraints.txt '.[app]'
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --no-cache-dir --constraint constraints.txt --no-deps --force-reinstall /wheels/*.whl


FROM dependencies AS worker-packages
# Where to take torch from, e.g. https://download.pytorch.org/whl/cpu (small, without CUDA); PyPI by default.
ARG TORCH_INDEX=""
RUN if [ -n "$TORCH_INDEX" ]; then \
        pip install --no-cache-dir --constraint constraints.txt --no-deps --index-url "$TORCH_INDEX" torch; \
    fi \
    && pip install --no-cache-dir --constraint constraints.txt '.[app,worker]'
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --no-cache-dir --constraint constraints.txt --no-deps --force-reinstall /wheels/*.whl


FROM base AS runtime
LABEL org.opencontainers.image.title="nnU-Net Service" \
      org.opencontainers.image.description="Train nnU-Net v2 segmentation networks on your own images and use them, over REST." \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="docker.io/library/python:3.11.15-slim-bookworm"
# Named volumes that are mounted below /data take over the owner of these folders. There is no VOLUME: it
# would add nameless ones beside them.
RUN groupadd --gid 10001 nnunet \
    && useradd --uid 10001 --gid nnunet --no-create-home --home-dir /tmp --shell /usr/sbin/nologin nnunet \
    && install --directory --owner=nnunet --group=nnunet --mode=0700 /data /data/store /data/workspace
ENV PATH=/opt/nnunet/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    SEG_DATA_DIR=/data \
    SEG_LOG_FORMAT=json
WORKDIR /data
USER 10001:10001
ENTRYPOINT ["nnunet-service"]


FROM runtime AS app
COPY --from=app-packages /opt/nnunet /opt/nnunet
EXPOSE 8000
CMD ["api"]


FROM runtime AS worker
COPY --from=worker-packages /opt/nnunet /opt/nnunet
CMD ["worker"]
