#!/bin/sh
# Inside a build: make the virtual environment /opt/deepsynth with the packages of an image (cpu, cuda or mlflow), or,
# with "code", install this project into /opt/deepsynth-code beside it.
#
# Packages come from images/wheels if there are any (`make wheels`), else from pip's index. The environment has no
# pip: nothing is installed at run time.
set -eu
image=$1
cd "$(dirname "$0")"
bundled_pip=$(find wheels -name 'pip-*.whl')
if [ -n "$bundled_pip" ]; then
    pip="python3 $bundled_pip/pip"
    export PIP_NO_INDEX=1 PIP_FIND_LINKS="$PWD/wheels"
else
    pip="python3 -m pip"
fi
export PIP_CONSTRAINT="$PWD/../constraints.txt" PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
export PIP_ROOT_USER_ACTION=ignore
python=/opt/deepsynth/bin/python
install="$pip --python $python install --quiet --no-compile"

if [ "$image" = code ]; then
    # setuptools is installed already: torch requires it.
    $install --no-deps --no-build-isolation --target /opt/deepsynth-code ..
    $python -m compileall -q --invalidation-mode unchecked-hash /opt/deepsynth-code
    exit
fi

python3 -m venv --without-pip /opt/deepsynth
$install --requirement requirements.txt
packages=$($python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
if [ "$image" != mlflow ]; then
    $install --no-deps "$(grep '^kfp==' ../constraints.txt)"
    # The code has its own layer: it changes more often than its dependencies.
    echo /opt/deepsynth-code > "$packages/deepsynth.pth"
fi

if [ "$image" = cuda ]; then
    if ! find "$packages" -maxdepth 1 -name 'nvidia*' | grep -q .; then
        echo "error: this is torch's CPU build; pip found another torch than PyPI's for Linux" >&2
        exit 1
    fi
    # Unsloth requires xformers, whose newest wheel (0.0.35) is built for torch 2.10 and loads no kernel with this torch:
    # Unsloth then uses PyTorch's attention, and advises uninstalling xformers.
    $pip --python $python uninstall --quiet --yes xformers
fi

# The packages' own tests and test programs.
find "$packages" -depth -type d -name tests -exec rm -rf {} +
rm -rf "$packages/torch/test"
[ ! -d "$packages/torch/bin" ] || find "$packages/torch/bin" -type f ! -name torch_shm_manager -delete
if [ "$image" = cpu ]; then
    rm -rf "$packages/torch/include" "$packages/torch/share" # there is no compiler in this image
    if find "$packages" -maxdepth 1 -name 'nvidia*' | grep -q .; then
        echo "warning: this is torch's CUDA build, GBs that no CPU uses: make images TORCH_CPU_INDEX=URL" >&2
    fi
fi
# Compile now: a step's user cannot write there, and would compile everything at each start. Some packages contain
# templates that are not valid Python.
$python -m compileall -q -j 0 --invalidation-mode unchecked-hash "$packages" > /dev/null || true
