#!/usr/bin/env bash
# Download an image's wheels with this machine's pip: images/download-wheels.sh cpu|cuda|mlflow
#
# For builds that cannot reach a package index. pip's settings and variables apply; PYTHON names the Python whose pip is
# used (3.11 or newer), PYTHON_VERSION the image's version.
set -euo pipefail
image=${1:?usage: images/download-wheels.sh cpu|cuda|mlflow}
cd "$(dirname "$0")"
python=${PYTHON:-python3}
folder=wheels/$image
# Start with an empty folder: a wheel of an earlier constraint would be a second candidate.
find "$folder" -name '*.whl' -delete
mapfile -t requirements < <("$python" requirements.py "$image")
download=("$python" -m pip download --quiet --disable-pip-version-check --constraint ../constraints.txt
    --dest "$folder" --only-binary=:all: --python-version "${PYTHON_VERSION:-3.11}")
"${download[@]}" "${requirements[@]}" pip setuptools
[ "$image" = mlflow ] || "${download[@]}" --no-deps "$(grep '^kfp==' ../constraints.txt)"
du --summarize --human-readable "$folder"
