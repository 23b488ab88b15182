#!/bin/sh
# Inside a build: make the virtual environment /opt/deepsynth with the packages of an image (cpu, cuda or mlflow), or,
# with "code", install this project into /opt/deepsynth-code beside it.
#
# Packages come from images/wheels if there are any (`make wheels`), else from pip's index; each must have the bytes that
# constraints.txt names. The environment has no pip: nothing is installed at run time.
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
export PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
python=/opt/deepsynth/bin/python
install="$pip --python $python install --quiet --no-compile --no-deps --no-build-isolation"

if [ "$image" = code ]; then
    # setuptools is installed already: it is in the steps' lists.
    $install --target /opt/deepsynth-code ..
    $python -m compileall -q --invalidation-mode unchecked-hash /opt/deepsynth-code
    exit
fi

verified() {
    for list in "$@"; do
        python3 requirements.py "$list" > "$list.requirements"
        $install --require-hashes --only-binary :all: --requirement "$list.requirements"
    done
}

python3 -m venv --without-pip /opt/deepsynth
case $image in
cuda) verified torch ;;
cpu)
    if [ -n "${TORCH_CPU_INDEX:-}" ]; then
        $install --require-hashes --requirement torch-cpu.txt --index-url "$TORCH_CPU_INDEX"
    elif ! $install --require-hashes --requirement torch-cpu.txt; then
        echo "warning: torch's CUDA build follows, GBs that no CPU uses: make images TORCH_CPU_INDEX=URL" >&2
        verified torch
    fi
    ;;
esac
verified "$image"
packages=$($python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
if [ "$image" = cpu ]; then
    cp torchvision_operators.py "$packages/"
    echo "import torchvision_operators" > "$packages/torchvision_operators.pth"
    $python -c 'import torchvision.transforms.v2'
fi
# The code has its own layer: it changes more often than its dependencies.
[ "$image" = mlflow ] || echo /opt/deepsynth-code > "$packages/deepsynth.pth"

# The packages' own tests and test programs.
find "$packages" -depth -type d -name tests -exec rm -rf {} +
rm -rf "$packages/torch/test"
[ ! -d "$packages/torch/bin" ] || find "$packages/torch/bin" -type f ! -name torch_shm_manager -delete
if [ "$image" = cpu ]; then
    rm -rf "$packages/torch/include" "$packages/torch/share" # there is no compiler in this image
fi
# Compile now: a step's user cannot write there, and would compile everything at each start. Some packages contain
# templates that are not valid Python.
$python -m compileall -q -j 0 --invalidation-mode unchecked-hash "$packages" > /dev/null || true
