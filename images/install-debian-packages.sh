#!/bin/sh
# Install the Debian packages of the steps' image (cpu or cuda) that are missing; if none is missing, no network is needed.
set -eu
image=$1
cd "$(dirname "$0")"
wanted=$(sed 's/#.*//' debian-packages.txt)
if [ "$image" = cuda ]; then
    wanted="$wanted $(sed 's/#.*//' debian-packages-cuda.txt)"
    # Debian packages Python's headers separately; the python images include them.
    headers=$(python3 -c 'import sysconfig; print(sysconfig.get_path("include") + "/Python.h")')
    [ -e "$headers" ] || wanted="$wanted python3-dev"
fi
missing=""
for package in $wanted; do
    state=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2> /dev/null || true)
    [ "$state" = installed ] || missing="$missing $package"
done
if [ -n "$missing" ]; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update --quiet --quiet
    # shellcheck disable=SC2086
    apt-get install --yes --quiet --quiet --no-install-recommends $missing
    rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin
fi
