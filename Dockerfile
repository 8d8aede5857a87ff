# The server. CPU by default; --build-arg ACCELERATOR=cuda adds jax's CUDA plugin and its libraries (for a host with an
# NVIDIA driver and container runtime). Serving does not need torch, so the image does not have it.
ARG PYTHON_VERSION=3.12

# The wheel, with the native kernels for the architecture of the image, by the compiler of `make wheels`.
FROM python:${PYTHON_VERSION}-slim AS wheel
WORKDIR /src
COPY requirements.lock ./
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint requirements.lock ziglang
COPY pyproject.toml setup.py README.md LICENSE ./
COPY llm_jax llm_jax
COPY llm_torch_compat llm_torch_compat
COPY llm llm
COPY server server
COPY cli cli
RUN --mount=type=cache,target=/root/.cache/pip \
    zig="$(python -c 'import ziglang; print(ziglang.__path__[0])')/zig" \
    && CXX="$zig c++ -target $(uname -m)-linux-gnu.2.27" pip wheel --no-deps --wheel-dir /wheels .

FROM python:${PYTHON_VERSION}-slim AS build
ARG ACCELERATOR=cpu
# serve; train for nodes that train (deploy/training)
ARG EXTRAS=serve
WORKDIR /src
RUN python -m venv /opt/llm
COPY requirements.lock ./
COPY --from=wheel /wheels /wheels
RUN --mount=type=cache,target=/root/.cache/pip \
    case "$ACCELERATOR" in \
      cpu) backend="jax" ;; \
      cuda) backend="jax[cuda13]" ;; \
      *) echo "ACCELERATOR is '$ACCELERATOR'; it must be cpu or cuda." >&2; exit 2 ;; \
    esac \
    && /opt/llm/bin/pip install --constraint requirements.lock "$(echo /wheels/*.whl)[$EXTRAS]" "$backend"
RUN /opt/llm/bin/python -c "from llm_jax import native; assert native.find(), 'the wheel has no native library'"

FROM python:${PYTHON_VERSION}-slim
RUN useradd --uid 10001 --create-home llm
COPY --from=build /opt/llm /opt/llm
USER llm
WORKDIR /home/llm
ENV PATH=/opt/llm/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    LLM_SERVING_HOST=0.0.0.0 \
    LLM_SERVING_PORT=8000
EXPOSE 8000
# In Python, since the slim image has no curl. urlopen raises, and so fails the check, on any status other than 2xx.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
    CMD python -c "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ['LLM_SERVING_PORT'] + '/health', timeout=2)"
ENTRYPOINT ["llm-serve"]
