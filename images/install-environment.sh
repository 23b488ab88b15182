#!/usr/bin/env bash
# Make .venv and install this project into it: images/install-environment.sh [EXTRA], as `make install` does.
#
# torch is installed first, so that no other package pulls in another build. PyPI's build for Linux includes CUDA's
# libraries, several GB that a machine without an NVIDIA driver cannot use; such a machine gets the CPU build: from
# TORCH_CPU_INDEX if that is set, from pip's own index if it has one, else by uv, which knows where torch's builds are.
# The rest is installed by uv, in a fraction of pip's time: the installed one, or one that pip puts into .venv.
set -euo pipefail
extra=${1:-}
PYTHON=${PYTHON:-python3}
"$PYTHON" -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version) if sys.version_info < (3, 11) else 0'
[ -x .venv/bin/python ] || "$PYTHON" -m venv .venv
python=.venv/bin/python
torch=$(sed -n 's/^ *"\(torch==[^"]*\)",$/\1/p' pyproject.toml)
say() { printf '\n== %s\n' "$*"; }
pip_install() {
    $python -m pip install --disable-pip-version-check --constraint constraints.txt "$@" |
        { grep -v '^Requirement already satisfied' || true; }
}
uv_install() { "$uv" pip install --python $python --constraint constraints.txt "$@"; }
uv=$(command -v uv || { pip_install --quiet uv >&2 && echo .venv/bin/uv; } || true)

has_nvidia_driver() { [ -e /proc/driver/nvidia/version ] || command -v nvidia-smi > /dev/null; }

pips_torch() { # the version that pip would take; torch's CPU builds are named ...+cpu
    $python -m pip install --disable-pip-version-check --dry-run --no-deps --quiet --report - "$torch" |
        $python -c 'import json, sys; print(json.load(sys.stdin)["install"][0]["metadata"]["version"])'
}

install_cpu_torch() {
    if [ -n "${TORCH_CPU_INDEX:-}" ]; then
        say "torch's CPU build, from TORCH_CPU_INDEX"
        pip_install --index-url "$TORCH_CPU_INDEX" "$torch"
    elif pips_torch | grep -q '+cpu$'; then
        say "torch's CPU build, from pip's index"
        pip_install "$torch"
    else
        say "torch's CPU build, by uv: this machine has no NVIDIA driver"
        { [ -n "$uv" ] && uv_install --torch-backend=cpu "$torch"; } || {
            say "warning: torch's CPU builds are out of reach: pip's build follows, with CUDA's libraries, several GB;" \
                "TORCH_CPU_INDEX=URL names an index of CPU builds"
            pip_install "$torch"
        }
    fi
}

if ! $python -c 'import importlib.metadata as m; m.version("torch")' 2> /dev/null; then
    if has_nvidia_driver; then
        say "torch with CUDA: this machine has an NVIDIA driver"
        pip_install "$torch"
    else
        install_cpu_torch
    fi
fi
say "this project${extra:+ with what \"$extra\" needs}"
project=".${extra:+[$extra]}"
if [ -z "$uv" ] || ! uv_install --editable "$project"; then
    say "pip installs it: uv cannot be had, or failed"
    pip_install --editable "$project"
fi
version=$($python -c 'import importlib.metadata as m; print(m.version("torch"))')
say "installed: .venv, $(du -sh .venv | cut -f 1), with torch $version"
