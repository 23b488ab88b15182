"""Stored features of a frozen vision encoder: the same batches and losses, bounded space, and clear errors."""

import multiprocessing
import os
import resource
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from components.benchmark.config import BenchmarkConfig
from components.benchmark.contenders.contender import train_settings
from components.shared.datasets.shard_reader import Sample, ShardDataset
from components.shared.errors import UserError
from components.shared.models.model_families import family_of
from components.shared.models.model_loading import load_model, load_processor
from components.shared.tiny_base_recipe.tiny_models import save_blank_paddleocr_vl, save_tiny_deepseek_ocr2
from components.train.batches.collator import PageCollator
from components.train.batches.rope_positions import rope_positions_of
from components.train.config import TrainConfig
from components.train.processes.torchrun import CPU_PROCESSES_VARIABLE
from components.train.step import run
from components.train.vision.features_store import FeatureStore, PageFeatures, picture_digest
from tests.fixtures.training_fixture import base_and_dataset, boats, one_thread_and_no_tracking, train_config
from tests.fixtures.training_interruption import terminated_after_checkpoint

PAGES = 6
# Two epochs. Dropout depends on the random state of each step.
SETTINGS: dict[str, Any] = {
    "backend": "standard",
    "max_steps": 6,
    "per_device_train_batch_size": 2,
    "learning_rate": 5e-3,
    "lora_dropout": 0.1,
}
MIB = 2**-10  # in GiB


@pytest.fixture(scope="module", autouse=True)
def _one_thread_and_no_tracking() -> Iterator[None]:
    with one_thread_and_no_tracking():
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset of pages 224 pixels wide, and a blank base model of each kind."""
    folder = base_and_dataset(tmp_path_factory.mktemp("made"), boats(14, 6), pages=PAGES, lines_per_page=(6, 6))
    save_tiny_deepseek_ocr2(folder / "crops")
    save_tiny_deepseek_ocr2(folder / "no-crops")
    processor: Any = load_processor(str(folder / "no-crops"))
    processor.image_processor.tile_size = 256  # wider than the pages
    processor.save_pretrained(folder / "no-crops")
    return folder


def config_of(made: Path, output: Path, **changes: Any) -> TrainConfig:
    return train_config(made, output, SETTINGS | changes)


def trained(made: Path, output: Path, **changes: Any) -> dict[str, Any]:
    return run(config_of(made, output, **changes)).training.model_dump()


@pytest.fixture(scope="module")
def plain(made: Path) -> dict[str, Any]:
    return trained(made, made / "plain")


@pytest.fixture(scope="module")
def stored(made: Path, plain: dict[str, Any]) -> Path:
    """The features of the base's training pages."""
    trained(made, made / "storing", vision_features_dir=made / "stored")
    return made / "stored"


@pytest.fixture
def features(stored: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stored, tmp_path / "features"))


def store_of(folder: Path, gib: float = 1.0) -> FeatureStore:
    (own,) = (path for path in folder.iterdir() if (path / "used").exists())
    return FeatureStore(folder, own.name, int(gib * 2**30))


def train_pages(made: Path) -> list[Sample]:
    pages = ShardDataset(made / "dataset", "train")
    return [pages[index] for index in range(len(pages))]


def assert_same_course(training: dict[str, Any], plain: dict[str, Any]) -> None:
    for name in ("losses", "gradient_norms", "eval_losses", "eval_cers"):
        assert training[name] == pytest.approx(plain[name], rel=1e-5), name
    for name in ("tokens_per_step", "padded_tokens_per_step", "samples_per_step", "truncated_samples"):
        assert training[name] == plain[name], name


@pytest.mark.parametrize(
    ("base", "changes"),
    [
        ("base", {"eval_steps": 3, "max_eval_samples": 3, "eval_pages": 1}),
        pytest.param(
            "base",
            {"group_by_length": True, "gradient_checkpointing": True, "dataloader_num_workers": 2},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "base", {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}, marks=pytest.mark.slow
        ),
        pytest.param("crops", {"max_steps": 4}, marks=pytest.mark.slow),
        pytest.param(
            "no-crops",
            {"eval_steps": 6, "max_eval_samples": 2, "eval_pages": 0, "group_by_length": True},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_losses_are_the_same_and_a_second_training_computes_nothing(
    made: Path, tmp_path: Path, base: str, changes: dict[str, Any]
) -> None:
    changes = {"base_model": str(made / base), **changes}
    plain = trained(made, tmp_path / "plain", **changes)
    first = trained(made, tmp_path / "first", **changes, vision_features_dir=tmp_path / "features")
    again = trained(made, tmp_path / "again", **changes, vision_features_dir=tmp_path / "features")
    for training in (first, again):
        assert_same_course(training, plain)
        assert training["vision_features"]["computed_in_steps"] == training["vision_features"]["left_out"] == 0
    computed = first["vision_features"]["computed"]
    assert not multiprocessing.active_children(), "data workers end with their training"
    held_out = changes.get("max_eval_samples", 0)
    assert PAGES <= computed <= PAGES + held_out and first["vision_features"]["reused"] == 0
    assert again["vision_features"]["computed"] == 0 and again["vision_features"]["reused"] == computed
    files = [path.stat().st_size for path in (tmp_path / "features").rglob("*.safetensors")]
    assert len(files) == computed and sum(files) == first["vision_features"]["bytes"]


def test_the_stored_features_are_what_is_trained_on(
    made: Path, plain: dict[str, Any], features: Path, tmp_path: Path
) -> None:
    store = store_of(features)
    for picture in store.entries():
        page = store.read(picture)
        assert page is not None
        store.write(picture, PageFeatures(torch.zeros_like(page.features), page.inputs))
    blind = trained(made, tmp_path / "out", vision_features_dir=features)
    assert blind["vision_features"]["reused"] == PAGES
    assert blind["losses"][0] != pytest.approx(plain["losses"][0], rel=1e-4)


@pytest.mark.parametrize("left_out", [0, 1, PAGES])
@pytest.mark.parametrize("base", ["base", "crops"])
def test_batches_are_equal_tensor_by_tensor_but_for_the_pixels(
    made: Path, tmp_path: Path, base: str, left_out: int
) -> None:
    processor = load_processor(str(made / base))
    model: Any = load_model(str(made / base), dtype=torch.float32, device=torch.device("cpu"))
    plain = PageCollator(processor, family_of(model.config.model_type), 4096, rope_positions_of(model))
    pages = train_pages(made)
    batch = plain(pages)
    said = {"image_grid_thw", "num_local_patches"} & batch.keys()
    store = FeatureStore(tmp_path, "of-a-test", 2**30)
    for row, page in enumerate(pages[left_out:]):
        inputs = {name: batch[name][row + left_out : row + left_out + 1] for name in said}
        store.write(picture_digest(page.image_bytes), PageFeatures(torch.randn(row + 1, 8), inputs))
    collator = PageCollator(processor, plain.family, 4096, plain.rope_positions, store)
    other = collator(pages)
    pixels = {name for name in batch if name.startswith("pixel_values")}
    assert said and other.keys() - {"vision_features"} == batch.keys() - (pixels - {"pixel_values"})
    for name in batch.keys() - pixels:
        assert torch.equal(other[name], batch[name]), name
    brought = other["vision_features"]
    assert brought["tokens"] == [0] * left_out + list(range(1, PAGES - left_out + 1))
    assert sum(brought["tokens"]) == len(brought["features"])
    seen = plain(pages[:left_out]) if left_out else {}
    assert all(torch.equal(values, seen[name]) for name, values in brought["pictures"].items())
    assert bool(brought["pictures"]) == bool(left_out)


@pytest.mark.parametrize("base", ["base", pytest.param("no-crops", marks=pytest.mark.slow)])
def test_what_has_no_room_is_computed_in_the_steps(made: Path, tmp_path: Path, base: str) -> None:
    changes = {"base_model": str(made / base), "max_steps": 4}
    plain = trained(made, tmp_path / "plain", **changes)
    limit = (0.04 if base == "base" else 0.25) * MIB
    bounded = {"vision_features_dir": tmp_path / "features", "vision_features_gib": limit}
    training = trained(made, tmp_path / "out", **changes, **bounded)
    assert_same_course(training, plain)
    counts = training["vision_features"]
    assert 0 < counts["left_out"] < PAGES and counts["computed"] + counts["left_out"] == PAGES
    assert counts["computed_in_steps"] > counts["left_out"], "in the second epoch as well"
    assert counts["bytes"] <= limit * 2**30
    again = trained(made, tmp_path / "again", **changes, **bounded)["vision_features"]
    assert (again["reused"], again["left_out"]) == (counts["computed"], counts["left_out"]), "nothing is evicted"


def test_a_corrupt_file_is_counted_and_computed_anew(
    made: Path, plain: dict[str, Any], features: Path, tmp_path: Path
) -> None:
    cut, flipped = sorted(features.rglob("*.safetensors"))[:2]
    cut.write_bytes(cut.read_bytes()[:100])
    content = bytearray(flipped.read_bytes())
    content[-1] ^= 1
    flipped.write_bytes(content)
    training = trained(made, tmp_path / "out", vision_features_dir=features)
    assert_same_course(training, plain)
    assert training["vision_features"]["corrupt"] == 2 and training["vision_features"]["computed_in_steps"] == 4
    again = trained(made, tmp_path / "again", vision_features_dir=features)["vision_features"]
    assert (again["computed"], again["reused"], again["corrupt"]) == (2, PAGES - 2, 0)


def test_another_vision_part_has_features_of_its_own_and_the_same_one_elsewhere_has_not(
    made: Path, features: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(made / "base", tmp_path / "moved")
    save_blank_paddleocr_vl(tmp_path / "other", seed=1)
    short = {"vision_features_dir": features, "max_steps": 1}
    assert trained(made, tmp_path / "a", base_model=str(moved), **short)["vision_features"]["reused"] == PAGES
    other = trained(made, tmp_path / "b", base_model=str(tmp_path / "other"), **short)["vision_features"]
    assert (other["computed"], other["reused"]) == (PAGES, 0)
    assert len(list(features.iterdir())) == 2


def test_room_is_made_by_what_was_used_the_longest_time_ago(tmp_path: Path) -> None:
    page = PageFeatures(torch.ones(64, 32), {"image_grid_thw": torch.tensor([[1, 2, 3]])})
    for age, name in enumerate(("new", "middle", "old")):
        store = FeatureStore(tmp_path, name, 2**30)
        assert store.write("ab" + name, page) and store.write("cd" + name, page)
        used = time.time() - 1000 * age
        os.utime(tmp_path / name / "used", (used, used))
    (tmp_path / "somebody's").mkdir()
    size = next(iter(store.entries().values()))
    own = FeatureStore(tmp_path, "own", 7 * size)
    own.entries()
    assert own.write("ab1", page) and {path.name for path in tmp_path.iterdir()} >= {"new", "middle", "old"}
    assert own.write("cd2", page)
    assert {path.name for path in tmp_path.iterdir()} == {"new", "middle", "own", "somebody's"}
    read = own.read("cd2")
    assert read and torch.equal(read.features, page.features)
    assert torch.equal(read.inputs["image_grid_thw"], page.inputs["image_grid_thw"])
    assert own.read("ef3") is None
    assert not list(tmp_path.rglob(".*")), "nothing half is left"


def test_processes_share_a_folder_that_is_full_of_other_features(tmp_path: Path) -> None:
    page = PageFeatures(torch.ones(64, 32), {})
    other = FeatureStore(tmp_path, "other", 2**30)
    assert all(other.write(f"{number}0", page) for number in range(9))
    size = other.entries()["00"]
    stores = [FeatureStore(tmp_path, "own", 10 * size) for _ in range(2)]
    for store in stores:
        store.entries()
    for store in stores:
        store.share(2)
    for number in range(5):
        for process, store in enumerate(stores):
            assert store.write(f"{number}{process}", page)
            assert bytes_in(tmp_path) <= 10 * size
    assert not any(store.write("ff", page) for store in stores)
    assert bytes_in(tmp_path) == 10 * size


def test_one_process_may_write_all_its_part_before_the_other_starts(tmp_path: Path) -> None:
    page = PageFeatures(torch.ones(64, 32), {})
    for name in ("oldest", "older"):
        other = FeatureStore(tmp_path, name, 2**30)
        assert all(other.write(f"{number}0", page) for number in range(4))
    size = other.entries()["00"]
    stores = [FeatureStore(tmp_path, "own", 9 * size) for _ in range(2)]
    for store in stores:
        store.entries()
    for process, store in enumerate(stores):
        store.share(2)
        numbers = range(10)
        assert [store.write(f"{number}{process}", page) for number in numbers] == [number < 4 for number in numbers]
        assert bytes_in(tmp_path) <= 9 * size


def test_two_processes_make_room_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = PageFeatures(torch.ones(64, 32), {})
    other = FeatureStore(tmp_path, "other", 2**30)
    assert all(other.write(f"{number}0", page) for number in range(4))
    first, second = (FeatureStore(tmp_path, "own", 4 * other.entries()["00"]) for _ in range(2))
    for store in (first, second):
        store.entries()
        store.share(2)
    remove = shutil.rmtree

    def slowly(*places: Any, **options: Any) -> None:
        monkeypatch.setattr(shutil, "rmtree", remove)
        assert second.write("ab2", page), "while the first one removes"
        remove(*places, **options)

    monkeypatch.setattr(shutil, "rmtree", slowly)
    assert first.write("ab1", page)
    assert {path.name for path in tmp_path.iterdir()} == {"own"} and len(first.entries()) == 2


def test_what_a_killed_process_left_half_removed_makes_room_first(tmp_path: Path) -> None:
    page = PageFeatures(torch.ones(64, 32), {})
    for name in ("other", "killed"):
        assert FeatureStore(tmp_path, name, 2**30).write("ab1", page)
    (tmp_path / "killed" / "used").unlink()
    (tmp_path / "killed").rename(tmp_path / f".{'0' * 32}")
    (tmp_path / ".somebody's").mkdir()
    own = FeatureStore(tmp_path, "own", 2 * bytes_in(tmp_path / "other"))
    own.entries()
    assert own.write("ab1", page)
    assert {path.name for path in tmp_path.iterdir()} == {"other", "own", ".somebody's"}


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def test_a_disk_that_takes_no_more_leaves_nothing_half(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = FeatureStore(tmp_path, "own", 2**30)
    store.entries()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        assert not store.write("ab1", PageFeatures(torch.ones(64, 32), {}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "takes no more vision features" in caplog.text
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["used"]


def test_a_resumed_training_ends_like_an_uninterrupted_one(made: Path, plain: dict[str, Any], tmp_path: Path) -> None:
    settings = {"checkpoint_dir": tmp_path / "checkpoints", "save_steps": 2, "vision_features_dir": tmp_path / "kept"}
    with terminated_after_checkpoint(tmp_path / "checkpoints", 2):
        trained(made, tmp_path / "out", **settings)
    resumed = trained(made, tmp_path / "out", **settings)
    assert resumed["resumed_after_steps"] and resumed["vision_features"]["reused"] == PAGES
    assert_same_course(resumed, plain)


@pytest.mark.slow
def test_two_processes_share_the_pass_and_the_room(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CPU_PROCESSES_VARIABLE, "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    changes = {"num_gpus": 2, "per_device_train_batch_size": 1}
    plain = trained(made, tmp_path / "plain", **changes)
    with_features = trained(made, tmp_path / "out", **changes, vision_features_dir=tmp_path / "features")
    assert_same_course(with_features, plain)
    assert with_features["vision_features"]["computed"] == PAGES
    bounded = {"vision_features_dir": tmp_path / "small", "vision_features_gib": 0.06 * MIB}
    crowded = trained(made, tmp_path / "crowded", **changes, **bounded)
    assert_same_course(crowded, plain)
    counts = crowded["vision_features"]
    assert 0 < counts["computed"] < PAGES and counts["bytes"] <= 0.06 * 2**20
    # Each of the 6 pages is used twice, in either process.
    assert counts["computed_in_steps"] == 2 * counts["left_out"]


@pytest.mark.parametrize("changes", [{"peft": "none"}, {"finetune_vision_layers": True}])
def test_settings_that_train_the_vision_encoder_are_refused(made: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="needs a frozen vision encoder"):
        config_of(made, made / "unused", vision_features_dir=made / "unused-features", **changes)


VISION_MODULE = "model.visual.vision_model.encoder.layers.0.mlp.fc1"


def test_what_makes_features_change_is_refused(made: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="weights of the vision part are trained, first visual"):
        trained(made, tmp_path / "a", vision_features_dir=tmp_path / "features", target_modules=[VISION_MODULE])
    shutil.copytree(made / "base", tmp_path / "dropping")
    config = tmp_path / "dropping" / "config.json"
    assert '"attention_dropout": 0.0' in config.read_text()
    config.write_text(config.read_text().replace('"attention_dropout": 0.0', '"attention_dropout": 0.1'))
    with pytest.raises(UserError, match="attention_dropout is random"):
        trained(made, tmp_path / "b", vision_features_dir=tmp_path / "features", base_model=str(tmp_path / "dropping"))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"vision_features_dir .*cannot be written"):
        trained(made, tmp_path / "c", vision_features_dir=tmp_path / "file")
    assert not (tmp_path / "features").exists()


def test_a_contender_of_the_benchmark_does_not_profit_from_the_others_pass(tmp_path: Path) -> None:
    config = BenchmarkConfig(
        dataset_dir=tmp_path, output_dir=tmp_path / "out", train={"vision_features_dir": str(tmp_path / "features")}
    )
    folders = {
        train_settings("standard", config, tmp_path / scratch / "adapter")["vision_features_dir"]
        for scratch in ("one", "two")
    }
    assert len(folders) == 2 and str(tmp_path / "features") not in folders
    assert "vision_features_dir" not in train_settings(
        "standard", config.model_copy(update={"train": {}}), tmp_path / "adapter"
    )
