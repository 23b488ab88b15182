"""The export step on an adapter from the train step and its evaluation from the evaluate step."""

import ast
import json
import logging
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import ModelCard
from pydantic import ValidationError

from components.evaluate.config import EvaluateConfig
from components.evaluate.step import run as evaluate
from components.export.config import ExportConfig
from components.export.lineage.findings import Reach
from components.export.lineage.integrity import check_integrity
from components.export.package import package_folder
from components.export.package.held_out_pages import checked_pages
from components.export.package.inputs import PackageSources, read_sources
from components.export.package.verification import PackageVerificationError
from components.export.step import ExportResult, run
from components.shared.artifacts.evaluation_report import EvaluationReport
from components.shared.digests import sha256_file, sha256_folder
from components.shared.errors import UserError
from components.shared.programs.step_command import step_main
from components.shared.tiny_base_recipe.tiny_models import save_blank_paddleocr_vl
from components.train.config import TrainConfig
from components.train.step import run as train
from tests.fixtures.dataset_fixture import Page, drawn, write_dataset
from tests.fixtures.export_fixture import export_config, make_sources, write_gate

PAGES = [Page(f"Page {number} of the book", f"document-{number // 2}") for number in range(6)]
TOKENS = 8


@pytest.fixture(scope="module", autouse=True)
def _no_tracking() -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.setenv("MLFLOW_TRACKING_URI", "off")
    yield
    patch.undo()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with dataset and base, and the trained weights and their evaluation, for LoRA and full fine-tuning."""
    folder = tmp_path_factory.mktemp("made")
    write_dataset(folder / "dataset", PAGES)
    save_blank_paddleocr_vl(folder / "base")
    for peft in ("lora", "none"):
        common = {"dataset_dir": folder / "dataset", "base_model": str(folder / "base")}
        # A high learning rate, so that the answers differ from the base's, whose first token is arbitrary.
        schedule = {"max_steps": 10, "learning_rate": 1e-2, "per_device_train_batch_size": 1, "peft": peft}
        train(TrainConfig.model_validate({**common, **schedule, "output_dir": folder / peft}))
        measured = {"adapter_dir": folder / peft, "output_dir": folder / f"evaluation-{peft}", "max_new_tokens": TOKENS}
        evaluate(
            EvaluateConfig.model_validate({**common, **measured, "classic_ocr": False, "bootstrap_resamples": 100})
        )
    return folder


def settings(made: Path, output: Path, peft: str = "lora", **changes: object) -> ExportConfig:
    values = {
        "base_model": str(made / "base"),
        "adapter_dir": made / peft,
        "dataset_dir": made / "dataset",
        "evaluation_dir": made / f"evaluation-{peft}",
        "output_dir": output,
        "verify": False,
    }
    return ExportConfig.model_validate({**values, **changes})


@pytest.fixture(scope="module")
def result(made: Path) -> ExportResult:
    return run(settings(made, made / "package", verify=True, merge=True, model_name="reader", serving=["vllm"]))


@pytest.fixture(scope="module")
def unpacked(result: ExportResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(result.archive) as archive:
        archive.extractall(target)
    assert [path.name for path in target.iterdir()] == ["reader"]
    return target / "reader"


def adapter_predictions(evaluation: Path) -> dict[str, str]:
    rows = pq.read_table(evaluation / "samples.parquet").to_pylist()
    return {row["key"]: row["prediction"] for row in rows if row["model"] == "adapter"}


def test_the_package_was_run_and_reads_as_evaluated(result: ExportResult, made: Path) -> None:
    verification = result.lineage["verification"]
    text = verification["text"]
    assert text and verification["base_reads_otherwise"], "an empty text, or the base's, would prove nothing"
    assert " ".join(text.split()) == " ".join(
        adapter_predictions(made / "evaluation-lora")[verification["page"]].split()
    )


def test_the_script_writes_as_many_tokens_as_were_evaluated(unpacked: Path) -> None:
    written = json.loads((unpacked / "inference_config.json").read_text())
    assert written["max_new_tokens"] == TOKENS and written["calibration"] is written["line_calibration"] is None, (
        "so few pages give none"
    )
    assert f"answers of at most {TOKENS} tokens" in (unpacked / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_another_length_than_the_evaluated_one_is_kept_checked_and_said(
    made: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        found = run(settings(made, tmp_path / "out", verify=True, max_new_tokens=4, model_name="short"))
    with zipfile.ZipFile(found.archive) as archive:
        assert json.loads(archive.read("short/inference_config.json"))["max_new_tokens"] == 4
    verification = found.lineage["verification"]
    evaluated = adapter_predictions(made / "evaluation-lora")[verification["page"]]
    assert evaluated.startswith(verification["text"]) and 0 < len(verification["text"]) < len(evaluated)
    assert verification["compared_with"] == "single_page"
    said = "at most 4 tokens, the evaluation's answers had 8 at most"
    assert said in caplog.text
    assert "writes at most 4 tokens; `--max_new_tokens 8`" in (tmp_path / "out" / "README.md").read_text("utf-8")


def test_the_package_holds_what_it_needs(unpacked: Path) -> None:
    names = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    assert {
        "adapter_config.json",
        "adapter_model.safetensors",
        "base_model/model.safetensors",
        "inference.py",
        "inference_config.json",
        "lineage.json",
        "page_reader/reader.py",
        "processor_config.json",
        "README.md",
        "requirements.txt",
        "tokenizer.json",
        "training.json",
    } <= names
    assert json.loads((unpacked / "adapter_config.json").read_text())["base_model_name_or_path"] == "base_model"
    pins = dict(line.split("==") for line in (unpacked / "requirements.txt").read_text().splitlines())
    assert set(pins) == {"torch", "transformers", "peft", "pillow", "numpy"}
    assert not any("+" in version for version in pins.values())


def test_the_script_imports_nothing_of_this_project(unpacked: Path) -> None:
    scripts = [unpacked / "inference.py", *(unpacked / "page_reader").iterdir()]
    nodes = [node for script in scripts for node in ast.walk(ast.parse(script.read_text(encoding="utf-8")))]
    modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    outside = {name.partition(".")[0] for name in modules} - set(sys.stdlib_module_names)
    assert outside == {"torch", "transformers", "peft", "PIL", "numpy", "pypdfium2"}, "the last one only for PDFs"


def test_the_script_refuses_a_missing_file_in_one_line(unpacked: Path) -> None:
    answer = subprocess.run([sys.executable, "inference.py", "none.png"], cwd=unpacked, capture_output=True, text=True)
    assert answer.returncode == 2
    assert answer.stderr.strip() == "error: no such file: none.png"


def test_the_card_holds_the_measured_figures(unpacked: Path, made: Path) -> None:
    row = EvaluationReport.read(made / "evaluation-lora").row("adapter")
    assert row is not None
    card = ModelCard.load(unpacked / "README.md")
    figures = {found.metric_type: found.metric_value for found in card.data.eval_results}
    named = ("cer", "wer", "rougeL", "bleu", "chrf", "exact_page_rate", "loop_rate")
    assert figures == {name: round(getattr(row, name), 6) for name in named}
    assert card.data.library_name == "peft" and card.data.pipeline_tag == "image-text-to-text"
    assert card.data.base_model == "base" and card.data.license == "apache-2.0"
    assert f"| adapter | {100 * row.cer:.2f} %" in card.text
    assert str(made) not in card.text, "paths of the training machine"


def test_the_lineage_ends_where_the_bytes_are(result: ExportResult, unpacked: Path, made: Path) -> None:
    lineage = json.loads((result.folder / "lineage.json").read_text(encoding="utf-8"))
    manifest = json.loads((made / "dataset" / "manifest.json").read_text())
    assert lineage["archive"]["sha256"] == sha256_file(result.archive)
    assert lineage["adapter"]["sha256"] == sha256_folder(made / "lora")
    assert lineage["dataset"]["digest"] == lineage["training"]["dataset_digest"] == manifest["digest"]
    assert lineage["dataset"]["shards"]["eval"] == [
        {"file": "eval-000000.tar", "sha256": sha256_file(made / "dataset" / "eval-000000.tar")}
    ]
    assert lineage["evaluation"]["report_sha256"] == sha256_file(made / "evaluation-lora" / "report.json")
    for name, digest in lineage["package"].items():
        assert sha256_file(unpacked / name) == digest
    assert {**json.loads((unpacked / "lineage.json").read_text()), "archive": lineage["archive"]} == lineage


def test_verify_follows_the_lineage_to_its_end(result: ExportResult, made: Path) -> None:
    reach = Reach(made / "dataset", made / "lora", made / "evaluation-lora", made / "base")
    findings = check_integrity(result.folder, reach)
    assert [finding for finding in findings if finding.state != "matches"] == []
    links = {"package", "manifest", "shards", "training", "adapter", "base", "evaluation", "merged", "archive"}
    assert {finding.link for finding in findings} == links


def test_the_merged_weights_read_alike(result: ExportResult) -> None:
    merged = result.lineage["merged"]
    assert merged["dtype"] == "bfloat16" and len(merged["pages"]) == len(PAGES)
    assert merged["sha256"] == sha256_folder(result.folder / "merged")


def test_the_same_inputs_give_the_same_bytes(made: Path, tmp_path: Path) -> None:
    digests = {sha256_file(run(settings(made, tmp_path / name)).archive) for name in ("one", "two")}
    assert len(digests) == 1


def test_the_name_comes_from_base_and_adapter(made: Path, tmp_path: Path) -> None:
    archive = run(settings(made, tmp_path / "out")).archive
    assert archive.name == f"base-adapter-{sha256_folder(made / 'lora')[:8]}.zip"


@pytest.mark.slow
def test_a_whole_model_is_packed_without_a_base(made: Path, tmp_path: Path) -> None:
    """Its evaluation is changed here, so that the check also covers a batch that gave a different text."""
    evaluation = tmp_path / "evaluation"
    shutil.copytree(made / "evaluation-none", evaluation)
    table = pq.read_table(evaluation / "samples.parquet")
    rows = [{**row, "prediction": row["prediction"] + " in a batch"} for row in table.to_pylist()]
    pq.write_table(table.from_pylist(rows, schema=table.schema), evaluation / "samples.parquet")
    found = run(settings(made, tmp_path / "out", "none", evaluation_dir=evaluation, verify=True))
    assert found.lineage["verification"]["compared_with"] == "single_page"
    assert {finding.state for finding in check_integrity(found.folder, Reach())} == {"matches", "not reached"}
    with zipfile.ZipFile(found.archive) as archive:
        names = {name.partition("/")[2] for name in archive.namelist()}
        assert "peft" not in archive.read(f"{found.archive.stem}/requirements.txt").decode()
    assert "model.safetensors" in names and not any(name.startswith("base_model/") for name in names)
    assert ModelCard.load(tmp_path / "out" / "README.md").data.library_name == "transformers"


def test_a_base_that_stays_outside_is_asked_for(made: Path, tmp_path: Path) -> None:
    found = run(settings(made, tmp_path / "out", include_base_model=False, model_name="bare"))
    with zipfile.ZipFile(found.archive) as archive:
        archive.extractall(tmp_path)
    assert not (tmp_path / "bare" / "base_model").exists()
    (tmp_path / "page.png").write_bytes(drawn("text"))
    answer = subprocess.run(
        [sys.executable, "inference.py", "../page.png"], cwd=tmp_path / "bare", capture_output=True, text=True
    )
    assert answer.returncode == 2 and "--base_model FOLDER" in answer.stderr


@pytest.mark.parametrize("script", ["print('something else')", "raise SystemExit('broken')"])
def test_a_package_that_does_not_work_is_not_written(
    made: Path, tmp_path: Path, script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "inference.py").write_text(script)
    monkeypatch.setattr(package_folder, "_SCRIPT", tmp_path / "inference.py")
    with pytest.raises(PackageVerificationError, match=r"something else|broken"):
        run(settings(made, tmp_path / "out", verify=True))
    assert [path.name for path in tmp_path.iterdir()] == ["inference.py"]


def test_the_package_is_checked_as_its_card_says_to_run_it(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "inference.py").write_text("import sys; sys.exit(f'given {sys.argv[2:]}')")
    monkeypatch.setattr(package_folder, "_SCRIPT", tmp_path / "inference.py")
    with pytest.raises(PackageVerificationError, match=r"given \[\]$"):
        run(settings(made, tmp_path / "out", verify=True))


def test_merged_weights_are_served_where_vllm_takes_no_adapter(unpacked: Path) -> None:
    content = json.loads((unpacked / "vllm" / "serving.json").read_text())
    assert (content["vllm_class"], content["adapter"]) == ("PaddleOCRVLForConditionalGeneration", False)
    assert [path.name for path in (unpacked / "vllm").iterdir()] == ["serving.json"]
    card = (unpacked / "README.md").read_text()
    assert "vllm serve ../merged --served-model-name reader\n" in card
    assert "does not load this adapter, so the merged weights are served" in card


def test_merged_weights_that_read_otherwise_are_not_written(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def merge_another_base(config: ExportConfig, _: PackageSources, folder: Path) -> None:
        shutil.copytree(made / "base", folder)

    monkeypatch.setattr("components.export.package.merging._merge", merge_another_base)
    with pytest.raises(PackageVerificationError, match="of 6 pages differently"):
        run(settings(made, tmp_path / "out", merge=True))
    assert not (tmp_path / "out").exists()


def edited_json(source: Path, target: Path, name: str, **changes: object) -> Path:
    shutil.copytree(source, target)
    content = json.loads((target / name).read_text(encoding="utf-8"))
    (target / name).write_text(json.dumps({**content, **changes}), encoding="utf-8")
    return target


def test_inputs_that_do_not_belong_together_are_user_errors(made: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "other", PAGES[:3])
    no_training = tmp_path / "no-training"
    shutil.copytree(made / "lora", no_training)
    (no_training / "training.json").unlink()
    other_seed = edited_json(made / "lora", tmp_path / "seed", "training.json", seed=1)
    models = {"base": {"base_model": "base", "revision": None}}
    no_adapter = edited_json(made / "evaluation-lora", tmp_path / "base-only", "report.json", models=models)
    no_length = edited_json(made / "evaluation-lora", tmp_path / "no-length", "report.json", reading={})
    wrong = {
        "training.json: cannot be read": {"adapter_dir": no_training},
        "another adapter": {"adapter_dir": other_seed},
        "another dataset": {"dataset_dir": tmp_path / "other"},
        "report.json: cannot be read": {"evaluation_dir": tmp_path},
        "has no adapter": {"evaluation_dir": no_adapter},
        "neither an adapter": {"adapter_dir": tmp_path},
        "no such model folder": {"base_model": "/no/such/folder"},
        "no adapter to merge": {"adapter_dir": made / "none", "merge": True},
        r"not a report\.json of the evaluate step \(reading\.max_new_tokens: Field required\)": {
            "evaluation_dir": no_length
        },
    }
    for message, change in wrong.items():
        with pytest.raises(UserError, match=message):
            run(settings(made, tmp_path / "out", **change))
        assert not (tmp_path / "out").exists()


def test_a_verdict_of_another_evaluation_is_refused(tmp_path: Path) -> None:
    made = make_sources(tmp_path / "made")
    others = {
        "it read 12 pages of the adapter, the report 4": {"pages": 12},
        "the adapter's CER is 0.01, the report's 0.125": {"challenger_error": 0.01},
        "the base's CER is 0.9, the report's 0.75": {"reference_error": 0.9},
        "its texts are compared as lenient-v1, the report's as nfkc-ws-v1": {"normalization": "lenient-v1"},
        "the report has no row 'champion'": {"reference": "champion"},
    }
    for number, (said, change) in enumerate(others.items()):
        gate = write_gate(made, tmp_path / f"gate-{number}", True, **change)
        with pytest.raises(UserError, match=re.escape(f"the verdict is of another evaluation: {said}")):
            run(export_config(made, tmp_path / "out", gate_dir=gate))
        assert not (tmp_path / "out").exists()
    assert run(export_config(made, tmp_path / "out", gate_dir=write_gate(made, tmp_path / "gate", True))).archive


def test_the_package_is_checked_on_a_page_that_the_base_reads_otherwise(
    made: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = settings(made, tmp_path / "out")
    keys = sorted(adapter_predictions(config.evaluation_dir))

    def evaluated(name: str, differing: set[str]) -> ExportConfig:
        folder = tmp_path / name
        shutil.copytree(config.evaluation_dir, folder)
        rows = pq.read_table(folder / "samples.parquet").to_pylist()
        told = [
            row | {"prediction": "otherwise" if row["model"] == "base" and row["key"] in differing else "read"}
            for row in rows
        ]
        pq.write_table(pa.Table.from_pylist(told), folder / "samples.parquet")
        return config.model_copy(update={"evaluation_dir": folder})

    last = evaluated("one-differs", {keys[-1]})
    for count in (1, len(keys)):
        checked = checked_pages(last, read_sources(last), count)
        assert len(checked.pages) == count
        page, text, telling = checked.most_telling("nfkc-ws-v1")
        assert (page.key, text, telling) == (keys[-1], "read", True)

    alike = evaluated("alike", set())
    page, _, telling = checked_pages(alike, read_sources(alike), 2).most_telling("nfkc-ws-v1")
    assert page.key == keys[0] and not telling


def test_a_training_file_without_a_key_names_file_and_key(made: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    shutil.copytree(made / "lora", adapter)
    (adapter / "training.json").write_text('{"schema_version": 1, "config": {}}')
    with pytest.raises(
        UserError, match=r"training\.json: not a training\.json of the train step \(backend: Field required"
    ):
        run(settings(made, tmp_path / "out", adapter_dir=adapter))


def test_a_name_that_is_no_file_name_is_refused(made: Path, tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        settings(made, tmp_path / "out", model_name="../up")


def test_the_command_says_what_is_wrong_in_one_line(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = {
        "adapter_dir": tmp_path,
        "dataset_dir": tmp_path,
        "evaluation_dir": tmp_path,
        "output_dir": tmp_path / "o",
    }
    flags = [part for name, folder in folders.items() for part in (f"--{name}", str(folder))]
    assert step_main("export", ExportConfig, run, ["--base_model", str(made / "base"), *flags]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said and "neither an adapter" in said.strip().splitlines()[-1]
    assert not (tmp_path / "o").exists()


def test_trained_elsewhere_is_said(made: Path, tmp_path: Path) -> None:
    """An adapter may be measured on a dataset that it was not trained on; card and lineage must say so."""
    adapter = edited_json(made / "lora", tmp_path / "lora", "training.json", dataset_digest="0" * 64)
    report = json.loads((made / "evaluation-lora" / "report.json").read_text(encoding="utf-8"))
    measured = {**report["models"]["adapter"], "sha256": sha256_folder(adapter)}
    models = {**report["models"], "adapter": measured}
    evaluation = edited_json(made / "evaluation-lora", tmp_path / "evaluation", "report.json", models=models)
    found = run(settings(made, tmp_path / "out", adapter_dir=adapter, evaluation_dir=evaluation))
    assert found.lineage["training"]["on_this_dataset"] is False
    assert "Trained on another dataset" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
