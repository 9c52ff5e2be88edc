#!/bin/sh
# Builds the image gcos-testbed from this checkout: build.sh [TAG]
#
# The base is debian:bookworm-slim where a registry answers, or what $BASE names. Where neither is
# there, BASE=debootstrap makes one from Debian packages (root, debootstrap).
set -eu

tag=${1:-gcos-testbed:latest}
base=${BASE:-debian:bookworm-slim}
python=${PYTHON:-python3}
here=$(cd "$(dirname "$0")" && pwd)
checkout=$(cd "$here/../../.." && pwd)
context=$(mktemp -d)
# A second Ctrl-C must not break off the removal.
trap 'trap "" INT TERM; rm -rf "$context"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

if [ "$base" = debootstrap ]; then
    base=gcos-base:bookworm
    if ! docker image inspect "$base" > /dev/null 2>&1; then
        debootstrap --variant=minbase --include=python3,python3-venv,iproute2,iptables \
            bookworm "$context/root" "${MIRROR:-http://deb.debian.org/debian}"
        rm -rf "$context/root/var/cache/apt/archives" "$context/root/var/lib/apt/lists"
        tar -C "$context/root" -c . | docker import - "$base" > /dev/null
        rm -rf "$context/root"
    fi
fi

# Debian bookworm has Python 3.11: wheels must fit that one, whatever runs here.
"$python" -m pip wheel --quiet --no-deps --wheel-dir "$context/wheels" "$checkout"
"$python" -m pip download --quiet --dest "$context/wheels" --python-version 3.11 \
    --only-binary=:all: "$context"/wheels/gcos-*.whl
cp "$here/Dockerfile" "$context/Dockerfile"
docker build --quiet --build-arg "BASE=$base" --tag "$tag" "$context"
