#!/usr/bin/env bash
# Download an image's wheels with this machine's pip: images/download-wheels.sh cpu|cuda|mlflow
#
# For builds that cannot reach a package index. pip's settings and variables apply; files with other bytes than those
# that constraints.txt and torch-cpu.txt name are refused. PYTHON names the Python whose pip is used (3.11 or newer),
# PYTHON_VERSION the image's version.
set -euo pipefail
image=${1:?usage: images/download-wheels.sh cpu|cuda|mlflow}
cd "$(dirname "$0")"
python=${PYTHON:-python3}
folder=wheels/$image
lists=$(mktemp -d)
trap 'rm -rf "$lists"' EXIT
# Start with an empty folder: a wheel of an earlier version would be a second candidate.
find "$folder" -name '*.whl' -delete
download() {
    "$python" -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary=:all: \
        --python-version "${PYTHON_VERSION:-3.11}" --dest "$folder" --requirement "$@"
}
list() {
    "$python" requirements.py "$1" > "$lists/$1.txt"
    download "$lists/$1.txt"
}
case $image in
cuda) list torch ;;
cpu)
    if [ -n "${TORCH_CPU_INDEX:-}" ]; then
        download torch-cpu.txt --index-url "$TORCH_CPU_INDEX"
    elif ! download torch-cpu.txt; then
        echo "warning: torch's CUDA build follows, GBs that no CPU uses: make wheels TORCH_CPU_INDEX=URL" >&2
        list torch
    fi
    ;;
esac
list pip
list "$image"
du --summarize --human-readable "$folder"
