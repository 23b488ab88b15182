#!/usr/bin/env bash
# Make .venv and install this project into it: images/install-environment.sh [EXTRA], as `make install` does.
#
# Every package has the version and the bytes that constraints.txt names (SHA-256); nothing is resolved here, and one
# index at a time is asked, so that no index can put its own file in another's place.
#
# torch comes first and apart: PyPI's build for Linux includes CUDA's libraries, several GB that a machine without an
# NVIDIA driver cannot use. Such a machine gets the CPU build, from TORCH_CPU_INDEX if that is set, from where this
# machine's pip is told to look, else by uv, which knows where torch's builds are. uv installs the rest, in a fraction
# of pip's time: the machine's own, or the one that pip puts into .venv.
set -euo pipefail
extra=${1:-}
PYTHON=${PYTHON:-python3}
"$PYTHON" -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version) if sys.version_info < (3, 11) else 0'
# Debian's Python without python3-venv leaves a .venv without pip, and uv makes one: both get it here.
.venv/bin/python -m pip --version > /dev/null 2>&1 || "$PYTHON" -m venv .venv || {
    echo "error: $PYTHON made no .venv; on Debian, as root: apt-get install python3-venv" >&2
    exit 2
}
python=.venv/bin/python
lists=$(mktemp -d)
trap 'rm -rf "$lists"' EXIT
say() { printf '\n== %s\n' "$*"; }
requirements() { "$python" images/requirements.py "$1" > "$lists/$1.txt" && echo "$lists/$1.txt"; }
# setuptools is installed first, with known bytes: no package is built with one that a build fetches for itself.
pip_install() {
    $python -m pip install --disable-pip-version-check --no-deps --no-build-isolation "$@" | { grep -v '^Requirement already satisfied' || true; }
}
pip_verified() { pip_install --require-hashes --requirement "$@"; }
uv_install() { "$uv" pip install --python $python --no-deps --no-build-isolation "$@"; }
uv_verified() { uv_install --require-hashes --requirement "$@"; }
verified() { uv_verified "$1" || { say "pip installs it, since uv failed" && pip_verified "$1"; }; }
pip_verified "$(requirements install-tools)" --quiet
uv=$(command -v uv || echo .venv/bin/uv)

has_nvidia_driver() { [ -e /proc/driver/nvidia/version ] || command -v nvidia-smi > /dev/null; }

install_cpu_torch() {
    local build=images/torch-cpu.txt
    if [ -n "${TORCH_CPU_INDEX:-}" ]; then
        say "torch's CPU build, from TORCH_CPU_INDEX"
        pip_verified $build --index-url "$TORCH_CPU_INDEX"
    elif pip_verified $build --quiet 2> /dev/null; then
        say "torch's CPU build, from where this machine's pip looks"
    else
        say "torch's CPU build, by uv: this machine has no NVIDIA driver"
        uv_verified $build --torch-backend=cpu || {
            say "warning: torch's CPU builds are out of reach: PyPI's build follows, with CUDA's libraries, several GB;" \
                "TORCH_CPU_INDEX=URL names an index of CPU builds"
            verified "$(requirements torch)"
        }
    fi
}

if ! $python -c 'import importlib.metadata as m; m.version("torch")' 2> /dev/null; then
    if [ "$(uname)" != Linux ]; then
        say "torch"
        verified "$(requirements torch)"
    elif has_nvidia_driver; then
        say "torch with CUDA: this machine has an NVIDIA driver"
        verified "$(requirements torch)"
    else
        install_cpu_torch
    fi
fi
say "what this project needs${extra:+, with \"$extra\"}"
verified "$(requirements "environment${extra:+-$extra}")"
# As pip does; else the first run compiles what it imports, some 10 s. Some packages contain files of other Pythons.
$python -m compileall -q -j 0 "$($python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" > /dev/null || true
say "this project"
uv_install --editable . || pip_install --editable .
version=$($python -c 'import importlib.metadata as m; print(m.version("torch"))')
say "installed: .venv, $(du -sh .venv | cut -f 1), with torch $version"
