"""The sample store as `deepsynth samples` and the service use it: in a folder, and in a real S3 store."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest

from components.prepare.documents.document import Document, Unreadable
from components.prepare.settings.source_settings import SourceSettings
from components.prepare.sources.opening import read_documents
from components.serve.config import ServeConfig
from components.serve.samples.audit import Audit
from components.serve.samples.objects import FolderObjects, objects_at
from components.serve.samples.store import DeletedRequestError, SampleStore
from components.serve.step import run as serve
from components.shared.programs.step_command import step_main
from tests.fixtures.cluster_command import Shell
from tests.fixtures.rendered_manifests import copy_of_manifests, rendered
from tests.fixtures.stored_samples import sample, write_settings
from tests.fixtures.tracking_stack import S3_KEYS, seaweedfs

ROOT = Path(__file__).parents[4]
BUCKET = "kept-pages"


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path, monkeypatch, capsys)


@contextmanager
def in_a_folder(folder: Path) -> Iterator[tuple[str, Callable[[], list[str]]]]:
    """Yield a store's place, and what is in it."""
    store = folder / "store"
    yield str(store), lambda: [str(path.relative_to(store)) for path in sorted(store.rglob("*")) if path.is_file()]


@contextmanager
def in_s3(folder: Path) -> Iterator[tuple[str, Callable[[], list[str]]]]:
    """Yield a store's place in SeaweedFS, and what is in it as AWS' own client sees it."""
    objects = rendered(copy_of_manifests(folder / "kustomize") / "overlays" / "local")
    with seaweedfs(objects, folder / "s3") as address, pytest.MonkeyPatch.context() as patch:
        for name, value in zip(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), S3_KEYS, strict=True):
            patch.setenv(name, value)
        patch.setenv("AWS_ENDPOINT_URL", address)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        client = boto3.client("s3")
        client.create_bucket(Bucket=BUCKET)

        def listed() -> list[str]:
            found = client.list_objects_v2(Bucket=BUCKET).get("Contents", [])
            return [one["Key"].removeprefix("team/a/") for one in found if not one["Key"].endswith("/")]

        yield f"s3://{BUCKET}/team/a/", listed


@pytest.mark.parametrize("opened", [in_a_folder, pytest.param(in_s3, marks=pytest.mark.slow)])
def test_what_is_stored_is_listed_expired_and_deleted_with_its_pictures(
    opened: Callable[[Path], AbstractContextManager[tuple[str, Callable[[], list[str]]]]], shell: Shell, tmp_path: Path
) -> None:
    with opened(tmp_path) as (place, names):
        settings = str(write_settings(tmp_path, place))
        store = SampleStore(objects_at(place), Audit(tmp_path / "audit.jsonl"))
        assert store.add(*sample("first", "one page"))
        assert not store.add(*sample("second", "one page")), "the same picture is not stored twice"
        assert store.add(*sample("second", "another", page=2))
        assert store.add(*sample("old", "an old page", days_old=31))
        assert store.add(*sample("young", "a younger page", days_old=29))
        pages = [name for name in names() if name.startswith("pages/")]
        assert len(pages) == 4 and len(names()) == 9
        for key in store.listed("me"):
            picture = store.picture(key, "me")
            assert picture and hashlib.sha256(picture).hexdigest() == key.picture
        reading, _ = sample("first", "one page")
        (first,) = [key for key in store.listed("me") if key.request_id == "first"]
        found = store.reading(first, "me")
        assert found and (found.text, found.picture_sha256) == (reading.text, reading.picture_sha256)

        shown = shell("samples", "list", "--config", settings).out.splitlines()
        assert [line.split()[0] for line in shown] == ["old", "young", "first", "second", "second"]
        assert "1 readings older than 30 days deleted" in shell("samples", "expire", "--config", settings).out
        assert shell("samples", "delete", "second", "unknown", "--config", settings).out.splitlines() == [
            "second: 2 readings deleted",
            "unknown: 0 readings deleted",
        ]
        kept = {sample("x", text)[0].picture_sha256 for text in ("one page", "a younger page")}
        assert {name for name in names() if name.startswith("pages/")} == {f"pages/{sha256}.png" for sha256 in kept}
        assert [key.request_id for key in store.listed("me")] == ["young", "first"]
        shell("samples", "delete", "first", "young", "--config", settings)
        assert {name.partition("/")[0] for name in names()} == {"deleted"}, "marks of four deleted requests"
        assert len(names()) == 4 and not any(one in name for name in names() for one in ("first", "young"))
        with pytest.raises(DeletedRequestError):
            store.add(*sample("first", "one page"))
        assert len(names()) == 4
        later = datetime.now(UTC) + timedelta(days=31)
        assert store.expire(30, "me", now=later) == 0 and names() == []


class _Interrupted(FolderObjects):
    """A replica's store; just before its operation ``number`` another replica does something."""

    def __init__(self, root: Path, number: int, other: Callable[[], object]) -> None:
        super().__init__(root)
        self.operations, self._number, self._other = 0, number, other

    def __getattribute__(self, name: str) -> Any:
        if name in ("put", "get", "exists", "files", "delete"):
            self.operations += 1
            if self.operations == self._number:
                self._other()
        return super().__getattribute__(name)


def test_a_deleted_request_never_returns_from_another_replica(tmp_path: Path) -> None:
    """One replica stores a page while another deletes its request: before, after, or between any two operations."""
    audit = Audit(tmp_path / "audit.jsonl")
    number, operations = 0, 0
    while number <= operations:
        number += 1
        place = tmp_path / str(number)
        deleting = SampleStore(FolderObjects(place), audit)
        deleting.add(*sample("sharer", "one page"))
        writing = _Interrupted(place, number, lambda store=deleting: store.delete("first", "me"))  # type: ignore[misc]
        with suppress(DeletedRequestError):
            SampleStore(writing, audit).add(*sample("first", "one page"))
            SampleStore(writing, audit).add(*sample("first", "a page of its own", page=2))
        operations = writing.operations
        if number > operations:
            deleting.delete("first", "me")
        assert [key.request_id for key in deleting.listed("me")] == ["sharer"], number
        assert len(list((place / "pages").iterdir())) == 1, number
    assert number > 8


def test_each_access_is_a_line_without_content(shell: Shell, tmp_path: Path) -> None:
    place = str(tmp_path / "store")
    settings = str(write_settings(tmp_path, place))
    store = SampleStore(objects_at(place), Audit(tmp_path / "audit.jsonl"))
    store.add(*sample("first", "secret words"))
    store.add(*sample("second", "secret words", days_old=40))
    (tmp_path / "corrected").mkdir()
    for arguments in (["list"], ["correct", "corrected"], ["expire"], ["delete", "first"]):
        assert shell("samples", *arguments, "--config", settings).code == 0
    text = (tmp_path / "audit.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    done = [(line["action"], line["request_id"]) for line in lines]
    assert done[:2] == [("store", "first"), ("store", "second")]
    reads = [("read", "first")] * 2
    assert done[2:] == [("list", None), ("list", None), *reads, ("expire", "second"), ("delete", "first")]
    assert all(set(line) == {"time", "who", "action", "request_id"} and line["who"] for line in lines)
    assert "secret" not in text and oct((tmp_path / "audit.jsonl").stat().st_mode)[-3:] == "600"


def test_no_access_without_its_line(tmp_path: Path) -> None:
    store = SampleStore(objects_at(str(tmp_path / "store")), Audit(tmp_path / "missing" / "audit.jsonl"))
    with pytest.raises(OSError):
        store.add(*sample("first", "a page"))
    assert not (tmp_path / "store").exists()


def test_a_killed_write_leaves_nothing_that_stays(tmp_path: Path) -> None:
    """A process that ends in the middle of a write, and one that ends between a reading and its picture."""
    place = str(tmp_path / "store")
    store = SampleStore(objects_at(place), Audit(tmp_path / "audit.jsonl"))
    store.add(*sample("first", "a page"))
    killed = "import os; os.fsync = lambda _: os._exit(9); from components.serve.samples.objects import objects_at\n"
    killed += f"objects_at({place!r}).put('pages/x.png', b'half of a page')"
    assert subprocess.run([sys.executable, "-c", killed], timeout=300).returncode == 9
    (partial,) = Path(place).rglob(".partial-*")
    assert partial.read_bytes() == b"half of a page" and oct(partial.stat().st_mode)[-3:] == "600"
    orphan = Path(place) / "pages" / f"{'0' * 64}.png"
    orphan.write_bytes(b"a picture whose reading was lost")
    store.expire(30, "me")
    assert partial.exists() and not orphan.exists(), "a young partial file may still be written"
    os.utime(partial, (0, 0))
    store.expire(30, "me")
    assert not partial.exists() and len(store.listed("me")) == 1


def test_prepare_reads_corrected_pages_and_no_drafts(shell: Shell, tmp_path: Path) -> None:
    place = str(tmp_path / "store")
    settings = str(write_settings(tmp_path, place))
    store = SampleStore(objects_at(place), Audit(tmp_path / "audit.jsonl"))
    for number, text in enumerate(("the first page was raed", "the second page", "the third page")):
        store.add(*sample(f"request-{number}", text))
    store.add(*sample("again", "the second page"))
    folder = tmp_path / "to-correct"
    assert "3 pages" in shell("samples", "correct", str(folder), "--config", settings).out
    sha256 = sample("x", "the first page was raed")[0].picture_sha256
    (folder / f"{sha256}.draft.txt").unlink()
    (folder / f"{sha256}.gt.txt").write_text("the first page was read")
    found = list(read_documents(SourceSettings(source=f"images:{folder}")))
    assert [one.text for one in found if isinstance(one, Document)] == ["the first page was read"]
    reasons = sorted(one.reason for one in found if isinstance(one, Unreadable))
    assert reasons == ["document_without_text"] * 2 + ["file_without_picture"] * 2


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        ("{allowed: true, store: x, retention_days: 3, audit_file: a, share: 1.5}", "samples.share"),
        ("{store: x, retention_days: 3, audit_file: a}", "set allowed to true"),
        ("{allowed: true, store: x, audit_file: a}", "retention_days"),
        ("{allowed: true, store: x, retention_days: 3}", "audit_file"),
        ("{allowed: true, store: 'gs://x', retention_days: 3, audit_file: a}", "s3://BUCKET"),
        ("{allowed: true, store: 's3://', retention_days: 3, audit_file: a}", "the bucket is missing"),
        ("{allowed: true, store: x, retention_days: 0, audit_file: a}", "samples.retention_days"),
    ],
)
def test_settings_that_are_not_safe_are_refused(
    samples: str, said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "service.yaml").write_text(f"samples: {samples}\n")
    assert step_main("serve", ServeConfig, serve, ["--config", str(tmp_path / "service.yaml")]) == 2
    error = capfd.readouterr().err
    assert said in error and len(error.splitlines()) == 1


def test_a_line_of_the_record_is_whole_or_an_error(tmp_path: Path) -> None:
    """The kernel writes what fits below the file's largest size, and refuses the rest."""
    path = tmp_path / "audit.jsonl"
    Audit(path).note("service", "store", "one")
    before = path.read_bytes()
    code = f"""
import resource
from pathlib import Path
from components.serve.samples.audit import Audit
resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before) + 30},) * 2)
try:
    Audit(Path({str(path)!r})).note("service", "store", "two")
except OSError as error:
    print(error.strerror)
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert answer.stdout == "File too large\n"
    assert path.read_bytes() == before
    Audit(path).note("service", "store", "three")
    assert [json.loads(line)["request_id"] for line in path.read_text().splitlines()] == ["one", "three"]


def test_retention_goes_on_beside_foreign_files_and_removes_what_a_dead_writer_left(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    store = SampleStore(FolderObjects(folder), Audit(tmp_path / "audit.jsonl"))
    assert store.add(*sample("kept", "one"))
    assert store.add(*sample("old", "two", days_old=40))
    assert store.add(*sample("gone", "three"))
    left = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and "gone" in path.name}
    assert store.delete("gone", "me") == 1
    for path, content in left.items():  # its writer was killed between its reading and its second look for the mark
        path.write_bytes(content)
    (folder / "deleted" / "README").write_text("a note\n")
    (folder / "deleted" / "empty").touch()
    assert store.expire(30, "me") == 2
    assert [key.request_id for key in store.listed("me")] == ["kept"]
    assert (folder / "deleted" / "README").is_file()
