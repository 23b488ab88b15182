"""Zips that would take much time or memory are refused by their sizes, before anything is unpacked."""

import zipfile
from pathlib import Path

import pytest

from components.export.lineage.findings import Reach
from components.export.lineage.integrity import check_integrity
from components.shared.artifacts import package_files
from components.shared.artifacts.dataset_manifest import MANIFEST_FILE, read_manifest
from components.shared.artifacts.package_files import UnreadableFileError, opened_package
from components.shared.errors import UserError


def test_many_entries_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "many.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(10_001):
            archive.writestr(f"reader/{number}", "")
    with pytest.raises(UserError, match="10001 entries"):
        check_integrity(path, Reach())


def test_a_compressed_bomb_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package_files, "_SMALL", 1_000_000)
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("reader/lineage.json", "[" * 2_000_000)
        archive.writestr("reader/README.md", "# reader")
    with opened_package(path) as package:
        assert list(package.files) == ["README.md"]
        assert "bytes become 2000000" in package.unsafe["reader/lineage.json"]
    with pytest.raises(UserError, match=r"holds no lineage\.json"):
        check_integrity(path, Reach())


def test_large_json_is_refused_by_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package_files, "_LARGEST_JSON", 1_000)
    path = tmp_path / "large.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("reader/lineage.json", "[" * 1_001)
    with opened_package(path) as package, pytest.raises(UnreadableFileError, match="larger than"):
        package.read("lineage.json")
    with pytest.raises(UserError, match="larger than"):
        check_integrity(path, Reach())


def test_deep_json_is_a_users_error(tmp_path: Path) -> None:
    path = tmp_path / "deep.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("reader/lineage.json", '{"a":' + "[" * 100_000)
    with pytest.raises(UserError, match=r"lineage\.json is not valid"):
        check_integrity(path, Reach())
    (tmp_path / MANIFEST_FILE).write_text("[" * 100_000)
    with pytest.raises(UserError, match="not a valid dataset manifest"):
        read_manifest(tmp_path)
