"""Prepare's output and its readers: PNGs, the page spool, shards, the shard reader."""

import gc
import hashlib
import io
import json
import pickle
import platform
import random
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import webdataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image, ImageDraw, ImageFont, UnidentifiedImageError

from components.prepare.output.merged_pages import SpooledPage, merged
from components.prepare.output.page_spool import INDEX_FILE, PageFile, PageSpool, StoredPage
from components.prepare.output.png import encode_image, encode_png
from components.prepare.output.shards import write_shards
from components.shared.artifacts.dataset_manifest import MANIFEST_FILE, SplitIndex, manifest_digest
from components.shared.datasets import shard_reader
from components.shared.datasets.page_decoding import decode_gray, decode_unfiltered_png
from components.shared.datasets.shard_index import index_shard
from components.shared.datasets.shard_reader import ShardDataset
from components.shared.digests import sha256_file
from components.shared.errors import UserError

Levels = npt.NDArray[np.uint8]
PAGES = npst.arrays(np.uint8, npst.array_shapes(min_dims=2, max_dims=2, max_side=70), elements=st.integers(0, 255))
FUZZ = settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def text_page(text: str = "A page of text", size: int = 96) -> Levels:
    image = Image.new("L", (2 * size, size), 255)
    ImageDraw.Draw(image).text((5, 5), text, font=ImageFont.load_default(18), fill=0)
    return np.asarray(image)


def spooled(number: int) -> SpooledPage:
    metadata = json.dumps({"text": f"page {number} – ü", "source_id": str(number)}, ensure_ascii=False)
    return SpooledPage(number, number, encode_png(text_page(f"page {number}")), metadata.encode())


def write_manifest(folder: Path, splits: dict[str, Any]) -> None:
    content = {
        "schema_version": 1,
        "digest": "",
        "splits": {name: {"wids_version": 1, "shardlist": []} for name in ("train", "eval")} | splits,
        "documents": {"train": 1, "eval": 1},
        "dropped": {},
        "source_digest": "",
        "config": {},
        "config_digest": "",
        "fonts": {},
        "layout_engine": "test",
        "tool_version": "test",
    }
    content["digest"] = manifest_digest(content)
    (folder / MANIFEST_FILE).write_text(json.dumps(content))


def manifest_of(folder: Path, index: SplitIndex) -> None:
    write_manifest(folder, {"train": index.model_dump()})


def foreign_manifest(folder: Path, shards: dict[str, int]) -> None:
    """Describe shards that another program wrote: file name -> samples."""
    entries = [
        {
            "url": name,
            "nsamples": count,
            "filesize": (folder / name).stat().st_size,
            "sha256": sha256_file(folder / name),
        }
        for name, count in shards.items()
    ]
    write_manifest(folder, {"train": {"wids_version": 1, "shardlist": entries}})


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven pages in shards of four, with a manifest."""
    folder = tmp_path_factory.mktemp("shards")
    manifest_of(folder, write_shards(list(map(spooled, range(11))), "train", folder, "png", 4))
    return folder


# --- pictures


@FUZZ
@given(PAGES)
def test_a_png_is_lossless_for_pillow_opencv_and_our_own_reader(page: Levels) -> None:
    encoded = encode_png(page)
    with Image.open(io.BytesIO(encoded)) as image:
        assert image.mode == "L"
        assert np.array_equal(np.asarray(image), page)
    opencv = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED)
    assert opencv is not None and np.array_equal(opencv, page)
    own = decode_unfiltered_png(encoded)
    assert own is not None and np.array_equal(own, page) and own.flags.c_contiguous and own.flags.writeable


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (1280, 1280), (33, 1023)])
def test_a_png_of_noise_is_lossless(shape: tuple[int, int]) -> None:
    page = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    assert np.array_equal(decode_gray(encode_png(page)), page)
    assert np.array_equal(decode_gray(encode_png(page[::-1, ::-1])), page[::-1, ::-1]), (
        "an array that is not contiguous"
    )


def test_a_png_has_the_same_bytes_in_another_process() -> None:
    program = (
        "import hashlib, numpy as np; from components.prepare.output.png import encode_png;"
        "page = np.random.default_rng(5).integers(0, 3, (300, 200), np.uint8);"
        "print(hashlib.sha256(encode_png(page)).hexdigest())"
    )
    elsewhere = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    page = np.random.default_rng(5).integers(0, 3, (300, 200), np.uint8)
    assert hashlib.sha256(encode_png(page)).hexdigest() == elsewhere.strip()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="measured on x86-64 alone")
def test_the_bytes_of_a_png_are_those_of_every_other_machine() -> None:
    # Pinned: the same on processors from Nehalem to AVX-512 with isal 1.9.1. A new isal may change it, and with it
    # the digest of every dataset: the release notes must say so then.
    chance = random.Random(5)
    words = np.frombuffer(chance.randbytes(30 * 9 * 14), np.uint8).reshape(30, 9, 14)
    page = words[chance.choices(range(30), k=60 * 40)].reshape(60, 40, 9, 14).swapaxes(1, 2).reshape(540, 560)
    assert zlib.crc32(encode_png(page)) == 0x6F0E0D2B


@pytest.mark.parametrize(
    "page",
    [np.zeros((0, 5), np.uint8), np.zeros((5, 0), np.uint8), np.zeros((5, 5, 3), np.uint8), np.zeros((5, 5), float)],
)
@pytest.mark.parametrize("image_format", ["png", "webp", "jpg"])
def test_what_is_not_a_grey_page_is_refused(page: Levels, image_format: str) -> None:
    with pytest.raises(ValueError, match="a page must be"):
        encode_image(page, image_format)


@pytest.mark.parametrize(("image_format", "kind"), [("png", "PNG"), ("webp", "WEBP"), ("jpg", "JPEG")])
def test_a_page_is_encoded_in_the_asked_format_and_looks_the_same(image_format: str, kind: str) -> None:
    page = text_page()
    encoded = encode_image(page, image_format)
    assert Image.open(io.BytesIO(encoded)).format == kind
    assert encoded == encode_image(page, image_format)
    levels = decode_gray(encoded)
    assert levels.shape == page.shape and np.abs(levels.astype(int) - page).mean() < 3


def test_a_format_that_cannot_hold_the_page_is_refused() -> None:
    with pytest.raises(ValueError, match="fit"):
        encode_image(np.zeros((1, 20_000), np.uint8), "webp")
    with pytest.raises(ValueError, match="png, webp or jpg"):
        encode_image(text_page(), "gif")


def pillow_bytes(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def test_pictures_of_others_are_read_to_the_same_levels() -> None:
    page = Image.fromarray(text_page())
    lossless = {"lossless": True}
    for kind, options in (("PNG", {}), ("PNG", {"compress_level": 0}), ("BMP", {}), ("TIFF", {}), ("WEBP", lossless)):
        encoded = pillow_bytes(page, kind, **options)
        assert np.array_equal(decode_gray(encoded), np.asarray(page)), kind
    for mode in ("RGB", "1", "P", "LA", "RGBA"):
        levels = decode_gray(pillow_bytes(page.convert(mode), "PNG"))
        expected = np.asarray(page.convert(mode).convert("L"))
        assert np.abs(levels.astype(int) - expected).max() <= 1, mode
    for kind in ("GIF", "EPS"):  # of strangers, and a page needs no other decoder
        with pytest.raises(UnidentifiedImageError):
            decode_gray(pillow_bytes(page, kind))


def test_only_the_plain_kind_takes_the_fast_path() -> None:
    page = text_page()
    assert decode_unfiltered_png(encode_png(page)) is not None
    # Pillow filters the rows of 8-bit grey pictures; the other modes are not 8-bit grey.
    for mode in ("L", "RGB", "1", "P", "LA", "I;16"):
        assert decode_unfiltered_png(pillow_bytes(Image.fromarray(page).convert(mode), "PNG")) is None, mode


def chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def hand_made_png(
    rows: bytes, *, header: bytes, pieces: int = 1, extra: bytes = b"", cut_data: int = 0, more_data: bytes = b""
) -> bytes:
    packed = zlib.compress(rows)
    packed = packed[: len(packed) - cut_data] + more_data
    cut = -(-len(packed) // pieces)
    data = b"".join(chunk(b"IDAT", packed[start : start + cut]) for start in range(0, len(packed), cut))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + data + chunk(b"IEND", b"")


HEADER_3X2 = bytes([0, 0, 0, 3, 0, 0, 0, 2, 8, 0, 0, 0, 0])


def test_the_fast_path_reads_several_data_chunks_and_passes_over_remarks() -> None:
    rows = bytes([0, 1, 2, 3, 0, 4, 5, 6])
    png = hand_made_png(rows, header=HEADER_3X2, pieces=4, extra=chunk(b"tEXt", b"a\0b"))
    levels = decode_unfiltered_png(png)
    assert levels is not None and levels.tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(
    "png",
    [
        hand_made_png(bytes([0, 1, 2, 3, 1, 4, 5, 6]), header=HEADER_3X2),  # a filtered row
        hand_made_png(bytes(7), header=HEADER_3X2),  # too little data
        hand_made_png(bytes(9), header=HEADER_3X2),  # too much
        hand_made_png(bytes(8), header=HEADER_3X2, cut_data=1),  # the checksum of the data is cut off
        hand_made_png(bytes(8), header=HEADER_3X2, more_data=b"x"),
        hand_made_png(bytes(10**7), header=HEADER_3X2),  # a decompression bomb with a small header
        hand_made_png(bytes(8), header=HEADER_3X2[:12] + b"\1"),  # interlaced
        hand_made_png(bytes(8), header=HEADER_3X2, extra=chunk(b"XXXX", b"")),  # an unknown critical chunk
        hand_made_png(bytes(8), header=HEADER_3X2)[:-12],  # no end
        hand_made_png(bytes(8), header=bytes(8) + HEADER_3X2[8:]),  # no pixels
        hand_made_png(bytes(8), header=b"\0\0\xea\x60" * 2 + HEADER_3X2[8:]),  # 60,000 x 60,000
        b"\x89PNG\r\n\x1a\n",
        b"",
    ],
)
def test_the_fast_path_leaves_every_other_file_alone(png: bytes) -> None:
    assert decode_unfiltered_png(png) is None


def test_a_bomb_is_refused_without_memory_for_it() -> None:
    with pytest.raises((Image.DecompressionBombError, OSError)):
        decode_gray(hand_made_png(bytes(8), header=b"\0\0\xea\x60" * 2 + HEADER_3X2[8:]))


@FUZZ
@given(st.binary(max_size=400))
def test_random_bytes_are_never_a_picture(content: bytes) -> None:
    for data in (content, b"\x89PNG\r\n\x1a\n" + content, encode_png(text_page())[:41] + content):
        with pytest.raises((OSError, Image.DecompressionBombError)):
            decode_gray(data)


@FUZZ
@given(st.integers(min_value=0), st.integers(1, 255))
def test_a_changed_byte_in_a_png_is_never_read_as_other_levels(place: int, change: int) -> None:
    page = text_page()
    encoded = bytearray(encode_png(page))
    encoded[place % len(encoded)] ^= change
    levels = decode_unfiltered_png(bytes(encoded))
    assert levels is None or np.array_equal(levels, page)


# --- the spool


def fill(folder: Path, pages: list[tuple[int, str, int, bytes]]) -> PageSpool:
    """Return a spool with two files of pages; each document's pages are in one of them."""
    with PageSpool(folder) as spool:
        for file in folder.glob("pages-*.bin"):
            file.unlink()
        files = [PageFile(folder), PageFile(folder)]
        for order, split, document, image in pages:
            stored = files[document % 2].append(image, json.dumps([order, document]).encode())
            spool.add(order, split, document, stored)  # type: ignore[arg-type]
        for written in files:
            written.close()
    return PageSpool.open(folder)


def some_pages(documents: int, seed: int) -> list[list[tuple[int, str, int, bytes]]]:
    """Return the pages of each document: with equal order keys, and pictures of several sizes, including empty ones."""
    rng = random.Random(seed)
    return [
        [
            (rng.choice([0, 7, 2**63, 2**64 - 1, rng.getrandbits(64)]), split, number, rng.randbytes(rng.randrange(90)))
            for _ in range(rng.randrange(1, 5))
        ]
        for number in range(documents)
        for split in [rng.choice(["train", "eval"])]
    ]


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), parts=st.integers(1, 5), limit=st.none() | st.integers(0, 40))
def test_how_documents_were_divided_among_spools_does_not_show(
    tmp_path_factory: pytest.TempPathFactory, seed: int, parts: int, limit: int | None
) -> None:
    folder = tmp_path_factory.mktemp("spools")
    documents = some_pages(25, seed)
    alone = fill(folder / "alone", [page for pages in documents for page in pages])
    side = random.Random(seed + 1).choices(range(parts), k=len(documents))
    spools = [
        fill(
            folder / str(part),
            [page for owner, pages in zip(side, documents, strict=True) if owner == part for page in pages],
        )
        for part in range(parts)
    ]
    random.Random(seed).shuffle(spools)
    for split in ("train", "eval"):
        expected = sorted(
            (
                (order, number, place, image)
                for pages in documents
                for place, (order, of, number, image) in enumerate(pages)
                if of == split
            ),
            key=lambda page: page[:3],
        )
        kept = expected[:limit]
        for found in (merged([alone], split, limit), merged(spools, split, limit)):  # type: ignore[arg-type]
            assert len(found) == len(kept)
            assert found.documents == len({number for _, number, _, _ in kept})
            assert [(page.order, page.document, page.image) for page in found] == [
                (order, number, image) for order, number, _, image in kept
            ]
            assert found.highest_key == max(((0, order) for order, *_ in kept), default=None)
            part = pickle.loads(pickle.dumps(found[3:9]))
            assert list(part) == list(found)[3:9] == list(found[3:9])
            assert all(json.loads(page.metadata) == [page.order, page.document] for page in found)


def test_a_limit_keeps_lower_ranks_first_and_then_lower_orders(tmp_path: Path) -> None:
    """Document 1 has many pages of low order; those of rank 0 come first, and the result is sorted by order."""
    with PageSpool(tmp_path / "pages") as spool:
        file = PageFile(tmp_path / "pages")
        stored = file.append(b"", b"{}")
        pages = [(1, 1, 0), (2, 1, 1), (3, 1, 2), (8, 3, 0), (9, 2, 0), (7, 3, 1)]
        for order, document, rank in pages:
            spool.add(order, "eval", document, stored, rank, letter_height=order + 0.26)
        file.close()
    for limit, orders, key in ((3, [1, 8, 9], (0, 9)), (4, [1, 2, 8, 9], (1, 2)), (5, [1, 2, 7, 8, 9], (1, 7))):
        kept = merged([spool], "eval", limit)
        assert [page.order for page in kept] == orders and kept.highest_key == key
        assert kept.letter_heights == pytest.approx([order + 0.3 for order in orders])
        assert [page.document for page in kept.by_document(np.arange(len(kept)))] == sorted(p.document for p in kept)


def test_a_spool_can_be_read_twice_and_where_it_was_written(tmp_path: Path) -> None:
    with PageSpool(tmp_path / "pages") as spool:
        pages_file = PageFile(tmp_path / "pages")
        stored = pages_file.append(b"picture", b"{}")
        spool.add(5, "train", 0, stored)
        pages_file.close()
        with pytest.raises(RuntimeError, match="the spool is not closed"):
            merged([spool], "train")
    pages = merged([spool], "train")
    assert list(pages) == list(pages) == [SpooledPage(5, 0, b"picture", b"{}")]
    with pytest.raises(RuntimeError, match="closed"):
        spool.add(5, "train", 0, stored)


def test_no_spool_and_an_empty_one_have_no_pages(tmp_path: Path) -> None:
    for spools in ([], [fill(tmp_path / "empty", [])]):
        pages = merged(spools, "eval")
        assert (list(pages), len(pages), pages.documents) == ([], 0, 0)


@pytest.mark.parametrize("numbers", [{"order": -1}, {"order": 2**64}, {"document": -1}, {"document": 2**32}])
def test_numbers_that_the_index_cannot_hold_are_refused_and_leave_no_half_page(
    tmp_path: Path, numbers: dict[str, int]
) -> None:
    with PageSpool(tmp_path / "pages") as spool:
        file = PageFile(tmp_path / "pages")
        spool.add(1, "train", 1, file.append(b"one", b"{}"))
        with pytest.raises(OverflowError):
            spool.add(numbers.get("order", 1), "train", numbers.get("document", 1), StoredPage(0, 0, 0, 0, 0))
        spool.add(3, "train", 3, file.append(b"three", b"{}"))
        file.close()
    assert [page.image for page in merged([PageSpool.open(tmp_path / "pages")], "train")] == [b"one", b"three"]


def test_a_spool_whose_writer_failed_cannot_be_opened(tmp_path: Path) -> None:
    fill(tmp_path / "pages", [(1, "train", 1, b"from an earlier attempt")])
    with pytest.raises(KeyError), PageSpool(tmp_path / "pages") as spool:
        spool.add(1, "train", 1, StoredPage(0, 0, 1, 1, 0))
        raise KeyError
    with pytest.raises(UserError, match="not a finished page spool"):
        PageSpool.open(tmp_path / "pages")
    with pytest.raises(UserError, match="not a finished page spool"):
        PageSpool.open(tmp_path / "nowhere")


@pytest.fixture
def full_spool(tmp_path: Path) -> Path:
    fill(tmp_path / "pages", [page for pages in some_pages(20, 1) for page in pages])
    return tmp_path / "pages"


@pytest.mark.parametrize("name", ["pages-00000.bin", "pages-00001.bin", INDEX_FILE])
@pytest.mark.parametrize("damage", ["cut", "longer", "empty"])
def test_a_spool_of_another_length_is_refused(full_spool: Path, name: str, damage: str) -> None:
    path = full_spool / name
    content = path.read_bytes()
    path.write_bytes({"cut": content[:-1], "longer": content + b"x", "empty": b""}[damage])
    with pytest.raises(UserError, match=r"page spool|its index says"):
        PageSpool.open(full_spool)


def test_a_changed_byte_in_the_index_is_seen_when_it_is_opened(full_spool: Path) -> None:
    path = full_spool / INDEX_FILE
    content = path.read_bytes()
    for place in range(0, len(content), 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(UserError, match="damaged"):
            PageSpool.open(full_spool)


def test_a_changed_byte_in_a_page_is_seen_when_it_is_read(full_spool: Path) -> None:
    path = full_spool / "pages-00001.bin"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    spool = PageSpool.open(full_spool)
    with pytest.raises(UserError, match=r"page at byte \d+ differs from what was written"):
        _ = [page for split in ("train", "eval") for page in merged([spool], split)]  # type: ignore[arg-type]


# --- shards


def test_a_shard_is_byte_for_byte_what_tarfile_writes(tmp_path: Path) -> None:
    pages = [spooled(number) for number in range(5)] + [
        SpooledPage(9, 9, b"x" * 512, b"{}"),
        SpooledPage(9, 9, b"", b"1"),
    ]
    index = write_shards(pages, "eval", tmp_path, "webp", 100)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for number, page in enumerate(pages):
            for extension, content in (("webp", page.image), ("json", page.metadata)):
                member = tarfile.TarInfo(f"eval-{number:08d}.{extension}")
                member.size, member.mtime, member.mode = len(content), 0, 0o644
                member.uname = member.gname = "deepsynth"
                archive.addfile(member, io.BytesIO(content))
    assert [shard.url for shard in index.shardlist] == ["eval-000000.tar"]
    assert (tmp_path / "eval-000000.tar").read_bytes() == stream.getvalue()


def test_the_index_tells_the_truth_of_the_shards(shards: Path) -> None:
    index = SplitIndex.model_validate(json.loads((shards / MANIFEST_FILE).read_text())["splits"]["train"])
    assert [(shard.url, shard.nsamples) for shard in index.shardlist] == [
        ("train-000000.tar", 4),
        ("train-000001.tar", 4),
        ("train-000002.tar", 3),
    ]
    for shard in index.shardlist:
        path = shards / shard.url
        assert (shard.filesize, shard.sha256) == (path.stat().st_size, sha256_file(path))


def test_shards_have_the_same_bytes_every_time(shards: Path, tmp_path: Path) -> None:
    write_shards(list(map(spooled, range(11))), "train", tmp_path, "png", 4)
    for path in shards.glob("*.tar"):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_no_pages_make_no_shard_and_full_ones_leave_no_empty_one(tmp_path: Path) -> None:
    assert write_shards([], "eval", tmp_path, "png", 4).shardlist == [] and not list(tmp_path.iterdir())
    eight = list(map(spooled, range(8)))
    assert (
        [shard.nsamples for shard in write_shards(eight, "eval", tmp_path, "png", 4).shardlist]
        == [
            shard.nsamples for shard in write_shards(list(map(spooled, range(8))), "eval", tmp_path, "png", 4).shardlist
        ]
        == [
            4,
            4,
        ]
    )
    with pytest.raises(ValueError, match="at least 1"):
        write_shards([], "eval", tmp_path, "png", 0)


def test_webdataset_reads_the_shards(shards: Path) -> None:
    urls = [str(path) for path in sorted(shards.glob("*.tar"))]
    found = list(webdataset.WebDataset(urls, shardshuffle=False).decode("l8"))
    assert [sample["__key__"] for sample in found] == [f"train-{number:08d}" for number in range(11)]
    for number, sample in enumerate(found):
        assert sample["json"]["source_id"] == str(number)
        assert np.array_equal(sample["png"], text_page(f"page {number}"))


def test_gnu_tar_unpacks_the_shards(shards: Path, tmp_path: Path) -> None:
    path = shards / "train-000002.tar"
    told = subprocess.run(["tar", "-xvf", path, "-C", tmp_path], capture_output=True, text=True, check=True)
    assert told.stderr == "" and len(told.stdout.split()) == 6
    assert (tmp_path / "train-00000008.png").read_bytes() == spooled(8).image
    listing = subprocess.run(["tar", "-tvf", path, "--utc"], capture_output=True, text=True, check=True).stdout
    assert all(
        line.startswith("-rw-r--r-- deepsynth/deepsynth") and "1970-01-01" in line for line in listing.splitlines()
    )


# --- the reader


def test_samples_are_read_at_random_and_in_order(shards: Path) -> None:
    dataset = ShardDataset(shards, "train")
    assert len(dataset) == 11
    in_order = list(dataset)
    assert [sample.key for sample in in_order] == [f"train-{number:08d}" for number in range(11)]
    for number in (10, 3, 4, 0, 7, -1, -11):
        sample, page = dataset[number], spooled(number % 11)
        assert (sample.key, sample.image_bytes) == (in_order[number].key, page.image)
        assert sample.metadata == json.loads(page.metadata) and sample.text == f"page {number % 11} – ü"
        assert np.array_equal(sample.gray, text_page(f"page {number % 11}"))
    for outside in (11, -12):
        with pytest.raises(IndexError):
            dataset[outside]
    assert len(list(dataset)) == 11, "the protocol of sequences: iteration ends with IndexError"


@pytest.mark.parametrize("image_format", ["png", "webp", "jpg"])
def test_the_rgb_picture_is_pillow_s_own(tmp_path: Path, image_format: str) -> None:
    encoded = encode_image(text_page(), image_format)
    manifest_of(
        tmp_path, write_shards([SpooledPage(0, 0, encoded, b'{"text": ""}')], "train", tmp_path, image_format, 1)
    )
    image = ShardDataset(tmp_path, "train")[0].image
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB")))


def keys_in_worker(dataset: ShardDataset) -> list[str]:
    return [dataset[number].key for number in range(len(dataset))]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_what_the_parent_opened(shards: Path, method: str) -> None:
    dataset = ShardDataset(shards, "train")
    expected = keys_in_worker(dataset)
    with ProcessPoolExecutor(2, mp_context=get_context(method)) as pool:
        assert [future.result() for future in [pool.submit(keys_in_worker, dataset) for _ in range(2)]] == [
            expected
        ] * 2
    assert keys_in_worker(pickle.loads(pickle.dumps(dataset))) == expected


def test_more_shards_than_may_be_open_are_read_by_several_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest_of(tmp_path, write_shards(list(map(spooled, range(12))), "train", tmp_path, "png", 1))
    monkeypatch.setattr(shard_reader, "_OPEN_SHARDS", 2)
    dataset = ShardDataset(tmp_path, "train")
    gc.collect()
    before = len(list(Path("/proc/self/fd").iterdir()))

    def read(seed: int) -> list[int]:
        chosen = random.Random(seed).choices(range(12), k=300)
        return [number for number in chosen if dataset[number].key != f"train-{number:08d}"]

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(read, range(4))) == [[], [], [], []]
    gc.collect()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 2


def add(archive: tarfile.TarFile, name: str, content: bytes, **values: Any) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for field, value in values.items():
        setattr(member, field, value)
    archive.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tars_of_others_are_read(tmp_path: Path, tar_format: int) -> None:
    names = [
        "b/x.y/one",
        "b/two",
        "ü" * 40 if tar_format == tarfile.USTAR_FORMAT else "ü" * 150,
        "f" * 90 + "/" + "g" * 60,
    ]
    picture = encode_png(text_page())
    with tarfile.open(tmp_path / "train-0.tar", "w", format=tar_format) as archive:
        for number, name in enumerate(names):
            if tar_format != tarfile.USTAR_FORMAT:
                add(archive, f"{number}.d", b"", type=tarfile.DIRTYPE)
            metadata = json.dumps({"text": name}).encode()
            add(archive, f"{name}.txt", b"passed over", mtime=1.5 if tar_format == tarfile.PAX_FORMAT else 1)
            for extension, content in [("json", metadata), ("PNG", picture)][:: 1 if number % 2 else -1]:
                add(archive, f"{name}.{extension}", content)
    foreign_manifest(tmp_path, {"train-0.tar": 4})
    dataset = ShardDataset(tmp_path, "train")
    assert [(sample.key, sample.text) for sample in dataset] == [(name, name) for name in names]
    assert all(np.array_equal(sample.gray, text_page()) for sample in dataset)


def test_the_plain_headers_give_what_tarfile_gives(shards: Path) -> None:
    for path in shards.glob("*.tar"):
        with tarfile.open(path) as archive:
            members = [(member.offset_data, member.size) for member in archive]
        assert [
            span for row in index_shard(path).spans.tolist() for span in (tuple(row[:2]), tuple(row[2:]))
        ] == members


def broken_shards() -> Iterator[Any]:
    picture = encode_png(text_page())
    yield pytest.param([("a.png", picture)], "'a' has no json", id="no json")
    yield pytest.param(
        [("a.json", b"{}"), ("b.json", b"{}"), ("b.png", picture)], "'a' has no picture", id="no picture"
    )
    yield pytest.param([("a.png", picture), ("a.json", b"{}"), ("a.png", picture)], "second .png", id="twice")
    yield pytest.param([("a.png", picture), ("a.json", b"{}")], "holds 1 samples, but the manifest says 2", id="count")


@pytest.mark.parametrize(("members", "problem"), list(broken_shards()))
def test_a_shard_that_breaks_the_contract_is_refused(
    tmp_path: Path, members: list[tuple[str, bytes]], problem: str
) -> None:
    with tarfile.open(tmp_path / "train-0.tar", "w") as archive:
        for name, content in members:
            add(archive, name, content)
    foreign_manifest(tmp_path, {"train-0.tar": 2})
    with pytest.raises(UserError, match=problem):
        ShardDataset(tmp_path, "train")


def test_a_sample_whose_metadata_is_not_json_is_named(tmp_path: Path) -> None:
    manifest_of(tmp_path, write_shards([SpooledPage(0, 0, b"", b"{")], "train", tmp_path, "png", 1))
    with pytest.raises(UserError, match=r"sample train-00000000: the metadata is not valid JSON"):
        ShardDataset(tmp_path, "train")[0]


def test_a_shard_that_changed_is_refused_at_opening_and_one_cut_later_when_read(tmp_path: Path) -> None:
    manifest_of(tmp_path, write_shards(list(map(spooled, range(3))), "train", tmp_path, "png", 10))
    dataset = ShardDataset(tmp_path, "train")
    path = tmp_path / "train-000000.tar"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match="truncated during use"):
        dataset[2]
    with pytest.raises(UserError, match="corrupt"):
        ShardDataset(tmp_path, "train")


def test_a_header_whose_checksum_is_wrong_is_refused(shards: Path, tmp_path: Path) -> None:
    content = bytearray((shards / "train-000002.tar").read_bytes())
    content[140] ^= 1  # a digit of the first member's time, which is not read
    (tmp_path / "changed.tar").write_bytes(content)
    with pytest.raises(UserError, match="not a readable shard"):
        index_shard(tmp_path / "changed.tar")


def test_a_member_of_negative_size_ends_in_an_error_and_not_in_a_loop(tmp_path: Path) -> None:
    header = bytearray(tarfile.TarInfo("a.png").tobuf(tarfile.USTAR_FORMAT))
    header[124:136] = b"-0000001000\0"  # leads back to this header
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 8 * 0x20 + sum(header[156:]))
    path = tmp_path / "loop.tar"
    path.write_bytes(bytes(header) + bytes(10_240))
    program = f"from components.shared.datasets.shard_index import *; print(len(index_shard(Path({str(path)!r}))))"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert "UserError" in told.stderr and "not a readable shard" in told.stderr


@FUZZ
@given(cut=st.integers(0, 20_480), place=st.integers(0, 20_479), change=st.integers(0, 255))
def test_a_damaged_tar_gives_samples_or_an_error_in_words(
    shards: Path, tmp_path: Path, cut: int, place: int, change: int
) -> None:
    content = bytearray((shards / "train-000002.tar").read_bytes()[:cut])
    if place < len(content):
        content[place] ^= change
    path = tmp_path / "damaged.tar"
    path.write_bytes(content)
    try:
        index = index_shard(path)
    except UserError:
        return
    assert len(index) <= 3 and all(0 <= value <= len(content) for value in index.spans.ravel().tolist())


@FUZZ
@given(content=st.binary(max_size=1500))
def test_random_bytes_as_a_tar_give_samples_or_an_error_in_words(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "random.tar"
    path.write_bytes(content)
    try:
        assert len(index_shard(path)) == 0
    except UserError as error:
        assert str(path) in str(error)
