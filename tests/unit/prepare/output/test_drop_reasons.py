"""Every reason for leaving something out is explained."""

import pytest

from components.prepare.output.drop_reasons import dropped_kind, explain_drop

REASONS = [
    "document_not_text",
    "document_empty",
    "document_too_long",
    "document_duplicate",
    "document_near_duplicate",
    "document_duplicate_across_splits",
    "document_near_duplicate_across_splits",
    "document_without_target",
    "document_over_weight",
    "document_without_text",
    "document_needs_shaping",
    "document_does_not_fit",
    "file_unreadable",
    "page_needs_shaping",
    "page_glyph_missing",
    "page_does_not_fit",
    "page_empty",
    "page_picture_too_large",
    "page_text_unmapped",
    "page_picture_unreadable",
    "page_over_max_train_pages",
    "page_over_max_eval_pages",
    "paragraph_glyph_missing",
]


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_of_this_version_is_explained_and_has_a_kind(reason: str) -> None:
    kind, _, rest = reason.partition("_")
    words_alone = explain_drop(f"{kind}_unheard_of").replace("unheard of", rest.replace("_", " "))
    assert explain_drop(reason) != words_alone
    assert dropped_kind(reason) == f"{kind}s"


def test_an_unknown_reason_is_told_by_its_words() -> None:
    assert explain_drop("page_eaten_by_moths") == "Page: eaten by moths."
    assert explain_drop("moths") == "Moths."
    assert dropped_kind("moths") == ""
