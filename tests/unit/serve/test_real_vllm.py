"""The engine ``vllm`` with vLLM itself, on the CPU; DEEPSYNTH_VLLM_PYTHON names the interpreter of its environment.

    DEEPSYNTH_VLLM_PYTHON=/opt/vllm/bin/python python -m pytest -m slow tests/unit/serve/test_real_vllm.py -s

vLLM 0.32 takes minutes to be imported and to read its first page on two cores, so the tests share one.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from components.shared.models.model_families import family_of
from components.shared.models.model_loading import load_model
from tests.fixtures.drawn_pages import as_file, drawn_page
from tests.fixtures.service_process import RunningService, running_service
from tests.fixtures.vllm_server import runs

PYTHON = os.environ.get("DEEPSYNTH_VLLM_PYTHON", "")
TOKENS = 24
_BOUND = 1500  # seconds; two busy cores took 4 minutes

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not Path(PYTHON or "-").is_file(), reason="DEEPSYNTH_VLLM_PYTHON names no interpreter with vLLM"
    ),
]


SAVE_BASE = """
import sys, transformers
from pathlib import Path
from tests.fixtures import tiny_torchvision_families as families
text = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "hidden_size": 64, "head_dim": 32}
text |= {"intermediate_size": 128}
text["rope_parameters"] = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]}
vision = {"embed_dim": 64, "hidden_size": 64, "mlp_ratio": 2}
made = families._qwen(transformers.Qwen2VLConfig, transformers.Qwen2VLProcessor, text, vision)
families.save(Path(sys.argv[1]), *made)
"""
"""A random Qwen2-VL whose attention heads have the 32 dimensions that vLLM's CPU kernels can do."""
MAKE_PACKAGE = """
import sys
from pathlib import Path
from tests.fixtures.evaluated_package import make_package
rule = {"size": 2, "window": None, "allowed": []}
make_package(Path(sys.argv[1]), sys.argv[2], "Summarize it.", no_repeat_ngrams=rule, max_new_tokens=int(sys.argv[3]))
"""
"""It needs the processor, and so torchvision."""
DECLARED_OPERATORS = """
import importlib.abc, sys
BOXES = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
class DeclareFirst(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            import torch
            for name in ("nms", "qnms"):
                torch.library.define("torchvision::" + name, BOXES)
        return None
if sys.prefix == PREFIX:  # vLLM's own environment has them
    sys.meta_path.insert(0, DeclareFirst())
"""
"""torchvision of vLLM's environment in this project's: see tests/fixtures/torchvision_without_operators.py."""


def with_torchvision(folder: Path) -> dict[str, str]:
    """Return an environment in which processors find the torchvision of vLLM's environment."""
    site = folder / "site"
    site.mkdir()
    find = "import importlib.util as u; print(u.find_spec('torchvision').submodule_search_locations[0])"
    found = subprocess.run([PYTHON, "-c", find], capture_output=True, text=True, check=True).stdout.strip()
    (site / "torchvision").symlink_to(found)
    (site / "sitecustomize.py").write_text(f"PREFIX = {sys.prefix!r}\n{DECLARED_OPERATORS}")
    for info in Path(found).parent.glob("torchvision-*.dist-info"):
        (site / info.name).symlink_to(info)
    return {"PYTHONPATH": os.pathsep.join([str(site), str(Path(__file__).parents[3])]), "HF_HUB_OFFLINE": "1"}


def save_adapter(base: Path, folder: Path) -> Path:
    torch.manual_seed(3)
    model: Any = load_model(str(base), dtype=torch.float32, device=torch.device("cpu")).eval()
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=family_of(model.config.model_type).language_modules))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    adapted.save_pretrained(folder)
    return folder


def renamed(adapter: Path, folder: Path) -> Path:
    """Copy an adapter with names of layers that no model has."""
    folder.mkdir()
    (folder / "adapter_config.json").write_text((adapter / "adapter_config.json").read_text())
    weights = load_file(adapter / "adapter_model.safetensors")
    save_file({name.replace(".layers.", ".other_layers."): value for name, value in weights.items()},
              folder / "adapter_model.safetensors")  # fmt: skip
    return folder


def wait_until_ready(service: RunningService) -> None:
    deadline = time.monotonic() + _BOUND
    while requests.get(f"{service.url}/health/ready", timeout=60).status_code != 200:
        assert service.process.poll() is None and time.monotonic() < deadline, service.log.read_text()[-6000:]
        time.sleep(0.2)


def read(service: RunningService, **fields: str) -> tuple[str, float]:
    files = {"file": as_file(drawn_page("page one"))}
    if fields.get("model") != "reader":  # whose package says it
        fields["max_new_tokens"] = str(TOKENS)
    answer = requests.post(f"{service.url}/v1/ocr", files=files, data=fields, timeout=600)
    assert answer.status_code == 200, answer.text
    page = answer.json()["pages"][0]
    return page["text"], page["confidence"]["mean_logprob"]


@dataclass(frozen=True)
class Served:
    """A service with vLLM, its base, an adapter, a package that is loaded, and the environment for services."""

    service: RunningService
    base: Path
    adapter: Path
    package: Path
    variables: dict[str, str]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("vllm")
    variables = with_torchvision(folder) | {"DEEPSYNTH_SERVE_ADMIN_TOKEN": "the-administrators-token"}
    base = folder / "base"
    subprocess.run([sys.executable, "-c", SAVE_BASE, str(base)], env=os.environ | variables, check=True)
    adapter = save_adapter(base, folder / "adapter-1")
    package = Path(shutil.copytree(adapter, folder / "reader"))
    made = [sys.executable, "-c", MAKE_PACKAGE, str(package), str(base), str(TOKENS)]
    subprocess.run(made, env=os.environ | variables, check=True)
    arguments = ["--dtype", "float32", "--enforce-eager", "--max-model-len", "2048"]
    settings: dict[str, Any] = {"adapters": [str(package)]}
    settings |= {"engine": "vllm", "vllm_python": PYTHON, "vllm_arguments": arguments, "model": str(base)}
    settings |= {"max_batch_size": 2, "request_timeout_seconds": 600}
    config = folder / "serve.json"
    config.write_text(json.dumps(settings))
    of_vllm = {"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    began = time.monotonic()
    flags = ("--config", str(config))
    with running_service(folder, *flags, variables=variables | of_vllm, ready=False) as service:
        wait_until_ready(service)
        print(f"ready after {time.monotonic() - began:.0f} s")
        yield Served(service, base, adapter, package, variables)


def load(service: RunningService, folder: Path) -> requests.Response:
    headers, wish = {"Authorization": "Bearer the-administrators-token"}, {"source": str(folder)}
    return requests.post(f"{service.url}/admin/models", json=wish, headers=headers, timeout=600)


def test_vllm_reads_what_the_embedded_engine_reads(served: Served, tmp_path: Path) -> None:
    """Base and adapter alike; an adapter whose modules vLLM passes over is refused."""
    flags = ("--model", str(served.base), "--adapters", str(served.package))
    with running_service(tmp_path, *flags, variables=served.variables) as embedded:
        of_package = read(embedded, model="reader")
        assert load(embedded, served.adapter).status_code == 200
        text, mean = read(embedded)
        text_with_adapter, mean_with_adapter = read(embedded, model="adapter-1")
    assert text_with_adapter != text
    assert of_package[0] != text_with_adapter, "the package has a prompt and a rule against repetitions"
    assert read(served.service, model="reader") == (of_package[0], pytest.approx(of_package[1], abs=1e-2))
    assert read(served.service) == (text, pytest.approx(mean, abs=1e-2))
    loaded = load(served.service, served.adapter)
    assert loaded.status_code == 200, loaded.text
    refused = load(served.service, renamed(served.adapter, tmp_path / "adapter-2"))
    assert refused.status_code == 400, refused.text
    assert "other_layers" in refused.json()["error"]["message"], "by name, before vLLM is asked"
    found = read(served.service, model="adapter-1")
    assert found == (text_with_adapter, pytest.approx(mean_with_adapter, abs=1e-2))
    assert text not in served.service.log.read_text()


def test_an_adapter_written_anew_is_read_with_after_it_is_loaded_again(served: Served, tmp_path: Path) -> None:
    """vLLM's prefix cache keeps what it computed with the adapter of the same name and folder before."""
    folder = Path(shutil.copytree(served.adapter, tmp_path / "rewritten"))
    assert load(served.service, folder).status_code == 200
    first = read(served.service, model="rewritten")
    weights = load_file(folder / "adapter_model.safetensors")
    others = {name: -value if "lora_B" in name else value for name, value in weights.items()}
    save_file(others, folder / "adapter_model.safetensors")
    assert read(served.service, model="rewritten") == (first[0], pytest.approx(first[1], abs=1e-2))
    assert load(served.service, Path(shutil.copytree(folder, tmp_path / "elsewhere"))).status_code == 200
    expected = read(served.service, model="elsewhere")
    assert expected != (first[0], pytest.approx(first[1], abs=1e-2))
    headers = {"Authorization": "Bearer the-administrators-token"}
    gone = requests.delete(f"{served.service.url}/admin/models/rewritten", headers=headers, timeout=600)
    assert gone.status_code == 200, gone.text
    assert load(served.service, folder).status_code == 200
    assert read(served.service, model="rewritten") == (expected[0], pytest.approx(expected[1], abs=1e-2))


def test_a_killed_vllm_comes_back_with_its_adapter(served: Served) -> None:
    service = served.service
    assert load(service, served.adapter).status_code == 200
    text, _ = read(service, model="adapter-1")
    started = [line for line in service.log.read_text().splitlines() if "started a vLLM server" in line]
    os.kill(int(started[-1].split("process ")[1].split(",")[0]), signal.SIGKILL)
    while service.metric("deepsynth_serve_engine_losses_total") == 0:
        time.sleep(0.2)
    assert requests.get(f"{service.url}/health/ready", timeout=60).status_code == 503
    wait_until_ready(service)
    print(f"recovered in {service.metric('deepsynth_serve_engine_recovery_seconds_sum'):.1f} s")
    assert read(service, model="adapter-1")[0] == text


def test_a_killed_service_takes_vllm_along(served: Served) -> None:
    """The last test: the server's engine and its workers are processes of their own, with the model's memory."""
    started = psutil.Process(served.service.process.pid).children(recursive=True)
    assert sum("vllm" in " ".join(process.cmdline()).lower() for process in started) > 1
    served.service.process.kill()
    deadline = time.monotonic() + _BOUND
    while any(runs(process.pid) for process in started):
        assert time.monotonic() < deadline, [process.name() for process in started if runs(process.pid)]
        time.sleep(0.1)
