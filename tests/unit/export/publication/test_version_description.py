"""What MLflow shows of a model card: its text, and nothing of a stranger's card that runs, links or loads."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from components.export.publication.version_description import LONGEST, version_description
from tests.fixtures.inert_pages import HOSTILE, check_inert

CARD = """---
license: mit
---

# reader

An adapter of `base`.

## Use

```
python inference.py page.png
```

## Measured

| model | CER |
|---|---|
| adapter | 12.50 % |

![A page](example_page.png)

## Training

Ten steps.

<details>
<summary>All settings</summary>

| `r` | `4` |

</details>

Done.
"""
HOSTILE_CARDS = [
    *HOSTILE,
    "[x]: javascript:alert(1)\n[x] [y][x] ![z][x]",
    "<javascript:alert(1)> <https://evil.example> <me@evil.example>",
    "\\\\[a](javascript:alert(1)) [a[b]](javascript:alert(1)) [a]( javascript:alert(1) )",
    "````\n```\n<script>alert(1)</script>\n````\n<script>alert(1)</script>",
    "~~~ \n~~~~\n<img src=x onerror=alert(1)>",
    "<details><script>alert(1)</script>",
    "<code onclick=alert(1)>x</code> <code><img src=x onerror=alert(1)></code>",
    "\x1b[2J\x1b]8;;https://evil.example\x07x \u202egpj.exe \u2066",
    "---\n<script>alert(1)</script>\n---\n---\n<script>alert(1)</script>",
    "- <script>alert(1)</script>\n\n      <script>alert(1)</script>",
]


def rendered(text: str) -> str:
    return f"<body>{MarkdownIt('gfm-like', {'html': True, 'linkify': False}).render(text)}</body>"


def test_the_cards_text_stays_without_code_settings_and_pictures() -> None:
    text = version_description(CARD)
    assert text.startswith("# reader\n\nAn adapter of `base`.") and "| adapter | 12.50 % |" in text
    assert "Ten steps." in text and "Done." in text
    for gone in ("license", "inference.py", "example_page", "`r`", "details", "## Use"):
        assert gone not in text
    assert text.endswith("`README.md` in this version's artifacts.")


def test_a_long_card_is_cut_between_sections() -> None:
    text = version_description(CARD + "\n## Long\n\n" + "word " * LONGEST + "\n\n## After\n\nmore\n")
    assert len(text) <= LONGEST and "Done." in text and "word" not in text and "After" not in text
    assert len(version_description("word " * LONGEST)) <= LONGEST


@pytest.mark.parametrize("card", HOSTILE_CARDS)
def test_nothing_of_a_hostile_card_runs_links_or_loads(card: str) -> None:
    text = version_description(f"# reader\n\n{card}\n\n## Measured\n\n{card}")
    check_inert(rendered(text))
    assert "\x1b" not in text and "\u202e" not in text


@given(
    st.lists(st.sampled_from([*" \n`~[](){}<>!:/\\|-#", *HOSTILE_CARDS, "[a](b)", "<code>", "</code>"])).map("".join)
)
def test_no_mixture_of_them_does(card: str) -> None:
    check_inert(rendered(version_description(card)))
