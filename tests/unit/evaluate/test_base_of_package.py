"""A package fits one base model: its script refuses others, and export refuses what was not trained for its base."""

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mlflow.tracking import MlflowClient
from safetensors.torch import load_file, save_file

from components.evaluate.config import EvaluateConfig
from components.evaluate.step import run as evaluate
from components.export.step import run
from components.shared.digests import sha256_folder
from components.shared.errors import UserError
from components.shared.models.adapter_loading import check_base_of_adapter
from components.shared.models.base_identity import base_identity
from tests.fixtures.dataset_fixture import drawn
from tests.fixtures.export_fixture import export_config, make_sources, write_evaluation


@pytest.fixture(scope="module", autouse=True)
def _no_tracking() -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.setenv("MLFLOW_TRACKING_URI", "off")
    yield
    patch.undo()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sources(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def bare(made: Path) -> Path:
    """An unpacked package without its base."""
    archive = run(export_config(made, made / "bare", include_base_model=False)).archive
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(made)
    (made / "page.png").write_bytes(drawn("one boat"))
    return made / "reader"


def copied(folder: Path, target: Path) -> Path:
    shutil.copytree(folder, target)
    return target


def with_config(base: Path, **changes: object) -> Path:
    path = base / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return base


def with_other_weights(base: Path) -> Path:
    weights = load_file(base / "model.safetensors")
    name = next(name for name in weights if "mlp" in name)
    weights[name] += 1
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    return base


def test_the_package_names_its_base(bare: Path, made: Path) -> None:
    base = json.loads((bare / "inference_config.json").read_text())["base"]
    assert base == base_identity("base", str(made / "base"), None).as_json()
    assert base["name"] == "base" and base["revision"] is None
    assert len(base["config_sha256"]) == len(base["weights_sample_sha256"]) == 64
    lineage = json.loads((bare / "lineage.json").read_text())["base_model"]
    assert {name: lineage[name] for name in base} == base


def test_the_same_model_is_known_in_another_form(made: Path, tmp_path: Path) -> None:
    """A base that is split into several files, with other metadata about who saved it, is the same base."""
    other = with_config(copied(made / "base", tmp_path / "split"), transformers_version="4.0", _name_or_path="x")
    weights = load_file(other / "model.safetensors")
    (other / "model.safetensors").unlink()
    halves = [sorted(weights)[::2], sorted(weights)[1::2]]
    for number, names in enumerate(halves):
        save_file({name: weights[name].clone() for name in names}, other / f"part-{number}.safetensors")
    places = {name: f"part-{number}.safetensors" for number, names in enumerate(halves) for name in names}
    (other / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    assert base_identity("base", str(other), None) == base_identity("base", str(made / "base"), None)


def test_other_weights_and_another_config_are_others(made: Path, tmp_path: Path) -> None:
    own = base_identity("base", str(made / "base"), None)
    weights = base_identity("base", str(with_other_weights(copied(made / "base", tmp_path / "weights"))), None)
    config = base_identity("base", str(with_config(copied(made / "base", tmp_path / "config"), image_token_id=1)), None)
    assert weights.config_sha256 == own.config_sha256 and weights.weights_sample_sha256 != own.weights_sample_sha256
    assert config.config_sha256 != own.config_sha256 and config.weights_sample_sha256 == own.weights_sample_sha256


def read_page(bare: Path, base: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "inference.py", "../page.png", "--max_new_tokens", "4", "--base_model", str(base)]
    return subprocess.run(command, cwd=bare, capture_output=True, text=True)


def test_the_script_refuses_another_base(bare: Path, made: Path, tmp_path: Path) -> None:
    answer = read_page(bare, with_other_weights(copied(made / "base", tmp_path / "weights")))
    assert answer.returncode == 2
    assert answer.stderr.strip().splitlines()[-1] == (
        f"error: {tmp_path / 'weights'} is not this adapter's base model: its weights differ."
        " The adapter fits only base"
    )


@pytest.mark.slow
def test_the_script_takes_its_own_base_and_refuses_another_config(bare: Path, made: Path, tmp_path: Path) -> None:
    assert read_page(bare, copied(made / "base", tmp_path / "base")).returncode == 0
    answer = read_page(bare, with_config(copied(made / "base", tmp_path / "config"), image_token_id=1))
    assert answer.returncode == 2 and "its config.json describes another model" in answer.stderr


def adapter_with(made: Path, folder: Path, name: str) -> tuple[Path, Path]:
    """Copy the adapter; return its folder, and a folder for an evaluation of it after a change."""
    return copied(made / "adapter", folder / name), folder / f"evaluation-{name}"


def refusal(made: Path, adapter: Path, evaluation: Path, **changes: object) -> str:
    digest = json.loads((made / "dataset" / "manifest.json").read_text())["digest"]
    write_evaluation(evaluation, digest, sha256_folder(adapter))
    output = adapter.with_name("out")
    with pytest.raises(UserError) as error:
        run(export_config(made, output, adapter_dir=adapter, evaluation_dir=evaluation, **changes))
    assert not output.exists()
    return str(error.value)


CUT = "the weights cannot be read: the file is truncated or corrupt"


def test_weights_that_are_cut_or_no_numbers_are_named(made: Path, tmp_path: Path) -> None:
    cut, evaluation = adapter_with(made, tmp_path, "cut")
    path = cut / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    assert f"adapter_model.safetensors: {CUT}" in refusal(made, cut, evaluation)
    nan, evaluation = adapter_with(made, tmp_path, "nan")
    weights = load_file(nan / "adapter_model.safetensors")
    weights[min(weights)][0, 0] = torch.nan
    save_file(weights, nan / "adapter_model.safetensors")
    assert "1 of 32 weights hold NaN" in refusal(made, nan, evaluation)


def test_a_whole_models_weights_are_read_too(made: Path, tmp_path: Path) -> None:
    model = copied(made / "base", tmp_path / "model")
    shutil.copyfile(made / "adapter" / "training.json", model / "training.json")
    path = model / "model.safetensors"
    weights = load_file(path)
    weights[max(weights)][0] = torch.inf
    save_file(weights, path, {"format": "pt"})
    assert f"1 of {len(weights)} weights hold NaN or infinite values, first {max(weights)}" in refusal(
        made, model, tmp_path / "one"
    )
    path.write_bytes(path.read_bytes()[:-1000])
    assert f"model.safetensors: {CUT}" in refusal(made, model, tmp_path / "two")


def test_an_adapter_for_another_base_is_named(made: Path, tmp_path: Path) -> None:
    other, evaluation = adapter_with(made, tmp_path, "other")
    training = json.loads((other / "training.json").read_text())
    (other / "training.json").write_text(json.dumps({**training, "base_model": "me/reader-7b"}))
    message = refusal(made, other, evaluation, base_model="tiny-base")
    assert "it was trained on 'me/reader-7b', base_model is 'tiny-base'" in message


def test_an_adapter_is_not_put_on_a_base_with_other_weights(bare: Path, made: Path, tmp_path: Path) -> None:
    """This holds for a trained adapter and for a registered one, which has the same files as a package."""
    trained = copied(made / "adapter", tmp_path / "trained")
    training = json.loads((trained / "training.json").read_text())
    base = base_identity("base", str(made / "base"), None).as_json()
    (trained / "training.json").write_text(json.dumps({**training, "base": base}))
    same = copied(made / "base", tmp_path / "same")
    other = with_other_weights(copied(made / "base", tmp_path / "weights"))
    for adapter in (trained, bare):
        check_base_of_adapter(str(same), None, adapter)
        with pytest.raises(UserError, match=r"for another base: .* its weights differ"):
            check_base_of_adapter(str(other), None, adapter)


def test_no_champion_is_read_on_another_base(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    run(export_config(made, tmp_path / "package", register_as="reader"))
    MlflowClient().set_registered_model_alias("reader", "champion", "1")
    settings = {"dataset_dir": made / "dataset", "output_dir": tmp_path / "out", "champion": "reader"}
    other = with_other_weights(copied(made / "base", tmp_path / "weights"))
    with pytest.raises(UserError, match="the champion cannot be read: the adapter is for another base"):
        evaluate(EvaluateConfig.model_validate({**settings, "base_model": str(other)}))
    assert not (tmp_path / "out").exists()
