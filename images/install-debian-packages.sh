#!/bin/sh
# Install the Debian packages that the given lists name, where they are missing; where none is, no network is needed.
set -eu
missing=""
for package in $(sed 's/#.*//' "$@"); do
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
