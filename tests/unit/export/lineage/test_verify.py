"""``deepsynth verify`` names what was changed, confirms what is intact, and is safe for any package."""

import copy
import io
import json
import os
import random
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.export.lineage.findings import Finding, Reach
from components.export.lineage.integrity import check_integrity
from components.export.step import ExportResult, run
from components.shared.digests import sha256_file
from components.shared.errors import UserError
from tests.fixtures.export_fixture import export_config, make_sources

Entries = dict[str, bytes]
FUZZ = settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


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
def result(made: Path) -> ExportResult:
    return run(export_config(made, made / "package"))


@pytest.fixture(scope="module")
def entries(made: Path) -> Entries:
    """The files of a package without its base model, which is most of the bytes."""
    archive = run(export_config(made, made / "bare", include_base_model=False)).archive
    with zipfile.ZipFile(archive) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


@pytest.fixture
def unpacked(result: ExportResult, tmp_path: Path) -> Path:
    with zipfile.ZipFile(result.archive) as archive:
        archive.extractall(tmp_path)
    return tmp_path / "reader"


def zipped(path: Path, files: Entries) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def differing(findings: list[Finding]) -> dict[str, str]:
    return {finding.subject: finding.detail for finding in findings if finding.state == "differs"}


def links(findings: list[Finding], state: str) -> set[str]:
    return {finding.link for finding in findings if finding.state == state}


def everything(made: Path) -> Reach:
    return Reach(made / "dataset", made / "adapter", made / "evaluation", made / "base")


@pytest.mark.parametrize("shape", ["output folder", "zip", "unpacked"])
def test_what_export_wrote_matches(result: ExportResult, unpacked: Path, made: Path, shape: str) -> None:
    package = {"output folder": result.folder, "zip": result.archive, "unpacked": unpacked}[shape]
    findings = check_integrity(package, everything(made))
    assert [finding for finding in findings if finding.state != "matches"] == []
    chain = {"package", "manifest", "shards", "training", "adapter", "base", "evaluation"}
    assert links(findings, "matches") == chain | ({"archive"} if shape != "unpacked" else set())


def test_out_of_reach_is_said_with_what_would_help(entries: Entries, tmp_path: Path) -> None:
    findings = check_integrity(zipped(tmp_path / "reader.zip", entries), Reach())
    missing = {finding.link: finding.detail for finding in findings if finding.state == "not reached"}
    assert set(missing) == {"shards", "base", "evaluation"}
    assert missing["shards"] == "give --dataset-dir" and "--base-model" in missing["base"]
    # The package contains the manifest and the report, so the middle of the chain needs no folder.
    assert {"manifest", "training", "adapter", "evaluation"} <= links(findings, "matches")
    assert differing(findings) == {}


@pytest.mark.parametrize(
    "name", ["adapter_model.safetensors", "inference.py", "lineage/manifest.json", "training.json"]
)
def test_a_changed_file_is_named(unpacked: Path, name: str) -> None:
    content = bytearray((unpacked / name).read_bytes())
    content[len(content) // 2] ^= 1
    (unpacked / name).write_bytes(content)
    assert name in differing(check_integrity(unpacked, Reach()))


def test_missing_and_added_files_and_links_are_named(unpacked: Path) -> None:
    (unpacked / "requirements.txt").unlink()
    (unpacked / "setup.py").write_text("print('run me')")
    (unpacked / "passwd").symlink_to("/etc/passwd")
    found = differing(check_integrity(unpacked, Reach()))
    assert found == {"requirements.txt": "missing", "setup.py": "not in the lineage", "passwd": "a link"}


def test_an_adapter_config_that_points_elsewhere_differs_twice(unpacked: Path) -> None:
    path = unpacked / "adapter_config.json"
    path.write_text(path.read_text().replace('"lora_alpha": 8', '"lora_alpha": 80'))
    assert {"adapter_config.json", "adapter_config.json as trained"} <= set(
        differing(check_integrity(unpacked, Reach()))
    )


def test_a_lineage_that_was_made_to_fit_still_breaks_at_the_adapter(unpacked: Path) -> None:
    """To hide changed weights, one must also change the adapter's digest, and so the evaluation's."""
    weights = unpacked / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    lineage = json.loads((unpacked / "lineage.json").read_text())
    lineage["package"][weights.name] = lineage["adapter"]["files"][weights.name] = sha256_file(weights)
    (unpacked / "lineage.json").write_text(json.dumps(lineage))
    assert set(differing(check_integrity(unpacked, Reach()))) == {"digest over its files' digests"}


def test_folders_that_are_others_are_named(result: ExportResult, made: Path, tmp_path: Path) -> None:
    dataset, evaluation = tmp_path / "dataset", tmp_path / "evaluation"
    shutil.copytree(made / "dataset", dataset)
    shutil.copytree(made / "evaluation", evaluation)
    (dataset / "eval-000000.tar").write_bytes(b"other pages")
    (dataset / "train-000000.tar").unlink()
    (evaluation / "samples.parquet").write_bytes(b"other predictions")
    reach = Reach(dataset, made / "evaluation", evaluation, made / "adapter", archive_sha256="0" * 64)
    found = differing(check_integrity(result.archive, reach))
    assert set(found) == {
        str(dataset / "eval-000000.tar"),
        str(dataset / "train-000000.tar"),
        str(evaluation / "samples.parquet"),
        str(made / "evaluation"),  # given as the adapter's folder
        str(made / "adapter"),  # given as the base's
        "reader.zip and --sha256",
    }
    assert found[str(dataset / "train-000000.tar")] == "missing"
    adapter = tmp_path / "adapter"
    shutil.copytree(made / "adapter", adapter)
    (adapter / "tokenizer.json").write_text("{}")
    (adapter / "more.txt").write_text("")
    found = differing(check_integrity(result.archive, Reach(adapter_dir=adapter)))
    assert found == {str(adapter): "more.txt, tokenizer.json"}


@pytest.mark.parametrize("spelt", [str.lower, str.upper, " {}\n".format])
def test_the_zips_digest_may_be_spelt_otherwise(result: ExportResult, spelt: Callable[[str], str]) -> None:
    digest = sha256_file(result.archive)
    for package in (result.archive, result.folder):
        findings = check_integrity(package, Reach(archive_sha256=spelt(digest)))
        assert differing(findings) == {}
        assert "reader.zip and --sha256" in {finding.subject for finding in findings if finding.state == "matches"}
        assert set(differing(check_integrity(package, Reach(archive_sha256="")))) == {"reader.zip and --sha256"}


def test_an_unpacked_folder_has_no_zip_to_compare_with_a_digest(result: ExportResult, unpacked: Path) -> None:
    for digest in ("0" * 64, sha256_file(result.archive)):
        with pytest.raises(UserError, match="--sha256 needs a zip"):
            check_integrity(unpacked, Reach(archive_sha256=digest))


def test_what_lies_beside_the_zip_is_compared_too(result: ExportResult, tmp_path: Path) -> None:
    folder = tmp_path / "package"
    shutil.copytree(result.folder, folder)
    (folder / "config.json").write_text("{}")  # MLflow's, among the artifacts of the export step's run
    assert differing(check_integrity(folder, Reach())) == {}
    (folder / "README.md").write_text((folder / "README.md").read_text().replace("12.50 %", "0.50 %"))
    (folder / "evil.py").write_text("print('run me')")
    (folder / "merged").mkdir()
    found = differing(check_integrity(folder, Reach()))
    assert set(found) == {"README.md beside the zip", "evil.py beside the zip", "merged beside the zip"}
    assert found["evil.py beside the zip"] == "not in the lineage"
    (folder / "README.md").unlink()
    missing = {finding.subject for finding in check_integrity(folder, Reach()) if finding.state == "not reached"}
    assert "README.md beside the zip" in missing


def test_a_zip_given_by_itself_is_compared_with_the_lineage_beside_it(result: ExportResult, tmp_path: Path) -> None:
    archive, lineage = tmp_path / "reader.zip", tmp_path / "lineage.json"
    shutil.copyfile(result.archive, archive)
    shutil.copyfile(result.folder / "lineage.json", lineage)
    assert links(check_integrity(archive, Reach()), "matches") >= {"archive"}
    with zipfile.ZipFile(archive, "a") as changed:
        changed.comment = b"another zip"
    assert set(differing(check_integrity(archive, Reach()))) == {"reader.zip"}


@pytest.mark.parametrize("content", ['{"name": "of another program"}', "no JSON", None, "other.zip"])
def test_a_lineage_beside_a_zip_that_is_not_of_it_is_no_fault(
    result: ExportResult, entries: Entries, tmp_path: Path, content: str | None
) -> None:
    lineage = json.loads((result.folder / "lineage.json").read_text())
    if content == "other.zip":
        lineage["archive"]["file"] = content
        content = json.dumps(lineage)
    elif content is None:  # an unpacked package's
        content = json.dumps({**lineage, "archive": None})
    (tmp_path / "lineage.json").write_text(content)
    findings = check_integrity(zipped(tmp_path / "reader.zip", entries), Reach())
    assert differing(findings) == {}
    assert [finding.subject for finding in findings if finding.link == "archive"] == ["lineage.json beside the zip"]
    assert "archive" in links(findings, "not reached")


def test_what_the_hub_adds_to_a_downloaded_package_is_passed_over(unpacked: Path) -> None:
    (unpacked / ".cache" / "huggingface" / "download").mkdir(parents=True)
    (unpacked / ".gitattributes").write_text("*.safetensors filter=lfs")
    (unpacked / ".cache" / "huggingface" / "download" / "README.md.metadata").write_text("abc")
    assert differing(check_integrity(unpacked, Reach())) == {}
    elsewhere = ("lineage/.gitattributes", "lineage/.cache/huggingface/a", ".cache/other", ".cache/huggingface.py")
    for name in elsewhere:
        (unpacked / name).parent.mkdir(parents=True, exist_ok=True)
        (unpacked / name).write_text("")
    assert set(differing(check_integrity(unpacked, Reach()))) == set(elsewhere)


def test_a_zip_that_was_exchanged_in_the_output_folder_is_named(result: ExportResult, tmp_path: Path) -> None:
    folder = tmp_path / "package"
    shutil.copytree(result.folder, folder)
    with zipfile.ZipFile(folder / "reader.zip", "a") as archive:
        archive.comment = b"another zip"
    assert set(differing(check_integrity(folder, Reach()))) == {"reader.zip"}
    (folder / "reader.zip").unlink()
    assert differing(check_integrity(folder, Reach())) == {"reader.zip": "missing"}


@pytest.mark.parametrize(
    "name", ["../../evil", "/tmp/evil", "reader/../../evil", "reader\\..\\evil", "C:/evil", "other/evil", "evil"]
)
def test_names_that_lead_out_are_faults_and_nothing_is_written(entries: Entries, tmp_path: Path, name: str) -> None:
    (tmp_path / "inside").mkdir()
    package = zipped(tmp_path / "inside" / "reader.zip", {**entries, name: b"evil"})
    before = set(tmp_path.rglob("*"))
    assert name in differing(check_integrity(package, Reach()))
    assert set(tmp_path.rglob("*")) == before and not Path("/tmp/evil").exists()


def test_a_link_and_a_second_entry_in_a_zip_are_faults(entries: Entries, tmp_path: Path) -> None:
    package = zipped(tmp_path / "reader.zip", entries)
    link = zipfile.ZipInfo("reader/passwd")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(package, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(link, "/etc/passwd")
        archive.writestr("reader/inference.py", "print('another')")
    found = differing(check_integrity(package, Reach()))
    assert found == {"reader/passwd": "a link", "reader/inference.py": "there twice"}


def test_a_lineage_cannot_choose_files_outside_of_the_dataset(entries: Entries, made: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.tar"
    secret.write_bytes(b"secret")
    lineage = json.loads(entries["reader/lineage.json"])
    lineage["dataset"]["shards"]["eval"] = [{"file": str(secret), "sha256": sha256_file(secret)}]
    package = zipped(tmp_path / "reader.zip", {**entries, "reader/lineage.json": json.dumps(lineage).encode()})
    assert str(made / "dataset" / "secret.tar") in differing(check_integrity(package, Reach(made / "dataset")))


def test_what_is_no_package_is_a_user_error(entries: Entries, tmp_path: Path) -> None:
    (tmp_path / "text.zip").write_text("no zip")
    zipped(tmp_path / "empty.zip", {})
    zipped(tmp_path / "old.zip", {"reader/lineage.json": b'{"schema_version": 1}'})
    (tmp_path / "folder").mkdir()
    wrong = {
        "none.zip": "no such file",
        "text.zip": "not a readable zip",
        "empty.zip": r"holds no lineage\.json",
        "folder": r"holds no lineage\.json",
        "old.zip": "not valid, or was written by another version .schema_version, name",
    }
    for name, message in wrong.items():
        with pytest.raises(UserError, match=message):
            check_integrity(tmp_path / name, Reach())


def outcome(package: Path) -> str:
    """Return ``user error``, ``differs`` or ``matches``; anything else is raised and fails the test."""
    try:
        findings = check_integrity(package, Reach())
    except UserError:
        return "user error"
    return "differs" if differing(findings) else "matches"


@FUZZ
@given(data=st.data())
def test_any_byte_changed_in_any_file_is_found(entries: Entries, tmp_path: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(entries)))
    content = bytearray(entries[name])
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    package = zipped(tmp_path / "reader.zip", {**entries, name: bytes(content)})
    # In lineage.json a change of white space, or of text for human readers, may leave every digest unchanged.
    allowed = {"differs", "user error"} | ({"matches"} if name.endswith("lineage.json") else set())
    assert outcome(package) in allowed


@FUZZ
@given(seed=st.integers(0, 2**32), cut=st.integers(0, 2))
def test_damaged_zips_end_in_an_answer(entries: Entries, tmp_path: Path, seed: int, cut: int) -> None:
    """Bytes of the archive are changed, or its beginning or end is cut off."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    content = bytearray(stream.getvalue())
    chance = random.Random(seed)
    directory = content.index(b"PK\x01\x02")
    for _ in range(chance.randint(1, 8)):
        low = directory if chance.random() < 0.5 else 0  # the directory is small, but its fields matter most
        content[chance.randrange(low, len(content))] = chance.randrange(256)
    if cut:
        middle = chance.randrange(len(content))
        content = content[:middle] if cut == 1 else content[middle:]
    package = tmp_path / "reader.zip"
    package.write_bytes(content)
    outcome(package)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@FUZZ
@given(data=st.data(), value=json_values)
@pytest.mark.parametrize(
    "name", ["lineage.json", "lineage/manifest.json", "lineage/report.json", "adapter_config.json"]
)
def test_json_of_any_shape_ends_in_an_answer(
    entries: Entries, tmp_path: Path, name: str, data: st.DataObject, value: Any
) -> None:
    content = copy.deepcopy(json.loads(entries[f"reader/{name}"]))
    target: Any = content
    while True:
        key = data.draw(st.sampled_from(sorted(target) if isinstance(target, dict) else range(len(target))))
        if isinstance(target[key], dict | list) and target[key] and data.draw(st.booleans()):
            target = target[key]
        else:
            break
    target[key] = value
    package = zipped(tmp_path / "reader.zip", {**entries, f"reader/{name}": json.dumps(content).encode()})
    outcome(package)


def test_the_command_says_it_in_lines_and_exit_codes(result: ExportResult, unpacked: Path, made: Path) -> None:
    from typer.testing import CliRunner

    from pipelines.command_line import app

    program = CliRunner()
    whole = program.invoke(app, ["verify", str(result.folder), "--base-model", str(made / "base")])
    assert whole.exit_code == 0, whole.output
    assert "shards:     2 match" in whole.output and "not reached" not in whole.output, "found beside the package"
    assert "verdict:    intact: the " in whole.output.splitlines()[-1]
    alone = program.invoke(app, ["verify", str(unpacked)])
    assert alone.exit_code == 0 and "not reached: samples.parquet" in alone.output
    assert "verdict:    intact" in alone.output and "not reached (shards" in alone.output.splitlines()[-1]
    (unpacked / "in\x1b[2Jference.py").write_text("")
    broken = program.invoke(app, ["verify", str(unpacked)])
    assert broken.exit_code == 1
    assert "differs: in\\x1b[2Jference.py: not in the lineage" in broken.output
    assert "verdict:    CHANGED: 1 of " in broken.output.splitlines()[-1]


@pytest.mark.parametrize("arguments", [["none.zip"], [".", "--sha256", "0" * 64]])
def test_what_cannot_be_verified_is_one_line_and_exit_code_2(unpacked: Path, arguments: list[str]) -> None:
    command = [sys.executable, "-m", "pipelines.command_line", "verify", *arguments]
    environment = {**os.environ, "COLUMNS": "200"}
    answer = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=unpacked)
    assert answer.returncode == 2 and answer.stderr.startswith("error: ") and len(answer.stderr.splitlines()) == 1
