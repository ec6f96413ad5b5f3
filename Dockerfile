# The image of every machine of a cluster: clusters/*.yaml, or any other way to start Ray.
#
#   docker build --tag leaktune .
#   docker build --tag leaktune:cpu --build-arg ACCELERATOR=cpu .
#
# ACCELERATOR=cuda, the default, is exactly requirements.lock, every file checked by its hash. On
# Linux the torch of PyPI brings CUDA along, several gigabytes of it; the machine has to bring the
# NVIDIA driver and its container toolkit. Such an image runs without a GPU too, only larger.
#
# ACCELERATOR=cpu takes torch and torchvision of the locked versions from PyTorch's CPU index and
# leaves CUDA out. Those two files are *not* checked by hash, since the lock holds the hashes of
# PyPI's builds. Everything else is checked as above.
#
# The base image moves with Debian's security updates, and so do the programs from apt: build anew to
# take them in. What pins a cluster's machines is the digest of the image built here.

ARG PYTHON_VERSION=3.11

FROM python:${PYTHON_VERSION}-slim-bookworm AS build
ARG ACCELERATOR=cuda
ARG TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu
ARG UV_VERSION=0.13.9
ENV UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_NO_CACHE=1 \
    UV_PYTHON_DOWNLOADS=never \
    VIRTUAL_ENV=/opt/leaktune
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
RUN pip install --no-cache-dir "uv==${UV_VERSION}" && uv venv "${VIRTUAL_ENV}"

# Dependencies first: they change less often than the sources. --no-deps: the lock is complete.
WORKDIR /build
COPY requirements.lock .
RUN case "${ACCELERATOR}" in \
      cuda) \
        uv pip install --no-deps --require-hashes --requirement requirements.lock ;; \
      cpu) \
        awk '/^[A-Za-z0-9]/ {keep = !/^(torch|torchvision|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)==/} keep' \
          requirements.lock > requirements.cpu.lock \
        && uv pip install --no-deps --require-hashes --requirement requirements.cpu.lock \
        && mapfile -t torch < <(sed -nE 's/^(torch|torchvision)==([^ ]+).*/\1==\2/p' requirements.lock) \
        && uv pip install --no-deps --index-url "${TORCH_CPU_INDEX}" "${torch[@]}" ;; \
      *) \
        echo "Expected ACCELERATOR=cuda or ACCELERATOR=cpu, got ${ACCELERATOR}." >&2; exit 1 ;; \
    esac

# The package itself. Its build backend (hatchling) is the one thing fetched without a hash.
COPY pyproject.toml README.md LICENSE ./
COPY engine engine
COPY search_spaces search_spaces
RUN uv pip install --no-deps . && uv pip check


FROM python:${PYTHON_VERSION}-slim-bookworm
# `ray up` reaches into the container with bash and rsync, and from the head on to the workers
# with ssh; `ray submit --tmux` needs tmux; the probes of older KubeRay versions need wget.
# No versions, since Debian keeps none but the latest.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends bash openssh-client rsync tmux wget \
    && rm -rf /var/lib/apt/lists/*

# Files that `ray up` mounts keep their owner's id: let it be the id of the SSH user. $PATH in
# single quotes, for the shell that reads the file to fill in.
ARG UID=1000
# hadolint ignore=SC2016
RUN groupadd --gid "${UID}" leaktune \
    && useradd --create-home --uid "${UID}" --gid "${UID}" --shell /bin/bash leaktune \
    && install --directory --owner=leaktune --group=leaktune --mode=0700 /home/leaktune/.ray \
    # Ray runs its commands in login shells, and /etc/profile forgets the PATH of the image.
    && echo 'export PATH="/opt/leaktune/bin:$PATH"' > /etc/profile.d/leaktune.sh
COPY --from=build /opt/leaktune /opt/leaktune

# HOME is spelled out because Ray reads it from the image. No ENTRYPOINT: Ray starts `bash`.
ENV HOME=/home/leaktune \
    PATH=/opt/leaktune/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    RAY_AUTH_MODE=token \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
# By number, because Kubernetes cannot tell from a name that it is not root (runAsNonRoot).
USER ${UID}:${UID}
WORKDIR /home/leaktune

# Smoke test: the installed command runs, in Ray's kind of shell as well, the head's tools are there,
# Ray finds what it talks to AWS, GCP and Kubernetes through, and the team's MLflow PostgreSQL and logins.
RUN leaktune --help > /dev/null \
    && test "$(bash --login -c 'command -v python')" = /opt/leaktune/bin/python \
    && ray --version && command -v rsync ssh tmux wget && test -w "${HOME}" \
    && python -c "import boto3, googleapiclient, ray.autoscaler._private.kuberay.run_autoscaler" \
    && python -c "import flask_wtf, psycopg2"
CMD ["leaktune", "--help"]
