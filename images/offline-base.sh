#!/usr/bin/env bash
# Make a base image from Debian 12's packages, for machines without access to an image registry (as root; needs
# debootstrap):
#
#     images/offline-base.sh deepsynth-base:bookworm
#     make images BASE_IMAGE=deepsynth-base:bookworm
#
# It contains Python 3.11 and all Debian packages of the CPU image, so that builds on it need no network for Debian's
# packages. Further packages follow the name, e.g. for the CUDA image: gcc libc6-dev python3-dev. They come from this
# machine's own apt sources.
set -euo pipefail
image=${1:?usage: images/offline-base.sh NAME:TAG [PACKAGE ...]}
shift
here=$(cd "$(dirname "$0")" && pwd)
suite=bookworm
[ "$(id -u)" = 0 ] || { echo "error: debootstrap needs root" >&2; exit 2; }
for program in debootstrap docker; do
    command -v "$program" > /dev/null || { echo "error: no $program; apt-get install debootstrap docker.io" >&2; exit 2; }
done

# "http://mirror/debian/ bookworm main" for each of this machine's sources.
sources=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME) $(COMPONENT)' 'Created-By: Packages' |
    grep -E " $suite(-updates|-security)? main$" | sort -u)
mirror=$(awk -v suite="$suite" '$2 == suite { print $1; exit }' <<< "$sources")

root=$(mktemp -d -p "${TMPDIR:-/var/tmp}" deepsynth-base.XXXXXX)
trap 'rm -rf "$root"' EXIT
packages=$(sed 's/#.*//' "$here/debian-packages.txt" | xargs | tr ' ' ,)
debootstrap --variant=minbase --include="python3,ca-certificates,$packages" "$suite" "$root" ${mirror:+"$mirror"}

# Security updates and the further packages, from this machine's sources.
[ -z "$sources" ] || sed 's/^/deb /' <<< "$sources" > "$root/etc/apt/sources.list"
in_root() { DEBIAN_FRONTEND=noninteractive chroot "$root" "$@"; }
in_root apt-get update --quiet --quiet
in_root apt-get upgrade --yes --quiet --quiet
[ $# = 0 ] || in_root apt-get install --yes --quiet --quiet --no-install-recommends "$@"

in_root apt-get clean
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin "$root"/var/cache/debconf/*-old "$root"/var/log/*.log \
    "$root"/var/lib/dpkg/*-old "$root"/usr/share/{man,info,locale}/* "$root"/etc/resolv.conf "$root"/etc/hostname
find "$root/usr/share/doc" -type f ! -name copyright -delete
# `python` exists too, as in the python images.
[ -e "$root/usr/bin/python" ] || ln -s python3 "$root/usr/bin/python"
tar --create --directory "$root" --numeric-owner --exclude='./dev/*' --exclude='./proc/*' --exclude='./sys/*' . |
    docker import --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8' \
        --change 'CMD ["python3"]' --message 'debootstrap bookworm' - "$image"
echo "$image is ready"
