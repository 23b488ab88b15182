"""Settings as YAML or JSON: a duplicate key is an error that names both lines."""

from pathlib import Path

import pytest

from components.shared.errors import UserError
from components.shared.programs.step_config import parse_config_text, read_config_file
from pipelines.settings.command_settings import parsed_setting


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train: {r: 8}\nseed: 1\ntrain: {r: 9}\n", "'train' is there twice, on lines 1 and 3"),
        ("train:\n  r: 8\n  lora_alpha: 3\n  'r': 9\n", "'r' is there twice, on lines 2 and 4"),
        ("train: {r: 8, r: 8}\n", "'r' is there twice, on lines 1 and 1"),
        ('{"seed": 1,\n "seed": 1}', "'seed' is there twice, on lines 1 and 2"),
        ('{"train": {"r": 1,\n\n "r": 1}}', "'r' is there twice, on lines 1 and 3"),
    ],
)
def test_a_key_that_is_there_twice_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "my.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=said) as error:
        read_config_file(path)
    assert str(path) in str(error.value)


def test_in_an_option_too() -> None:
    with pytest.raises(UserError, match="'r' is there twice"):
        parsed_setting("train={r: 1, r: 2}")


def test_a_merged_mapping_may_be_overridden() -> None:
    text = "base: &base {r: 8, seed: 1}\nmore: &more {<<: *base, r: 9}\ntrain: {<<: *more, r: 10}\n"
    assert parse_config_text(text, "test")["train"] == {"r": 10, "seed": 1}
    assert parse_config_text(text, "test")["more"] == {"r": 9, "seed": 1}


def test_json_is_read_as_json() -> None:
    assert parse_config_text('{"a": "\\ud83d\\ude00", "b": 1e-5, "c":\t[true]}', "t") == {
        "a": "\U0001f600",
        "b": 1e-5,
        "c": [True],
    }
    assert parse_config_text("{a: b, c: [d]}", "test") == {"a": "b", "c": ["d"]}


@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 100_000, '{"a":' * 100_000])
def test_text_that_is_nested_without_end_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UserError, match="not valid YAML or JSON"):
        parse_config_text(text, "test")


def test_aliases_of_aliases_are_not_spelled_out() -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [
        f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]"
        for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    ]
    with pytest.raises(UserError, match=r"test: .*its aliases make more than 1,000,000 values"):
        parse_config_text("\n".join(lines), "test")
    with pytest.raises(UserError, match="its aliases make more than"):
        parse_config_text("a: &a [*a]", "test")


def test_merged_mappings_are_not_spelled_out() -> None:
    lines = ["a0: &a0 {k: v}", *(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}" for i in range(1, 40))]
    with pytest.raises(UserError, match=r"test: .*its merged mappings \(<<\) make more than 100,000 pairs"):
        parse_config_text("\n".join(lines), "test")
    wide = "a: &a {" + ", ".join(f"k{i}: v" for i in range(1000)) + "}\nb: {<<: [" + ", ".join(["*a"] * 101) + "]}"
    with pytest.raises(UserError, match="its merged mappings"):
        parse_config_text(wide, "test")
