"""The reasons for leaving something out of a dataset, and what they mean.

A new reason goes into ``DropReason`` and, with its explanation, into ``_Explanations`` and ``_EXPLANATIONS``; mypy
reports each of the three that is missing.
"""

from typing import Literal, TypedDict, cast, get_args

TypesettingProblem = Literal["needs_shaping", "glyph_missing", "does_not_fit"]
PictureProblem = Literal["empty", "picture_unreadable", "picture_too_large", "over_limits"]

DropReason = Literal[
    "file_unreadable",
    "file_kind_not_read",
    "file_link_not_followed",
    "file_without_picture",
    "file_without_key",
    "file_hidden",
    "document_wrong_encoding",
    "document_without_column",
    "document_not_text",
    "document_empty",
    "document_without_text",
    "document_without_target",
    "document_too_long",
    "document_over_limits",
    "document_duplicate",
    "document_near_duplicate",
    "document_duplicate_across_splits",
    "document_near_duplicate_across_splits",
    "document_over_weight",
    "document_needs_shaping",
    "document_glyph_missing",
    "document_does_not_fit",
    "paragraph_needs_shaping",
    "paragraph_glyph_missing",
    "paragraph_does_not_fit",
    "page_needs_shaping",
    "page_glyph_missing",
    "page_does_not_fit",
    "page_empty",
    "page_text_unmapped",
    "page_text_hidden",
    "word_without_ink",
    "page_picture_unreadable",
    "page_picture_too_large",
    "page_over_limits",
    "page_over_max_train_pages",
    "page_over_max_eval_pages",
]


class _Explanations(TypedDict):
    file_unreadable: str
    file_kind_not_read: str
    file_link_not_followed: str
    file_without_picture: str
    file_without_key: str
    file_hidden: str
    document_wrong_encoding: str
    document_without_column: str
    document_not_text: str
    document_empty: str
    document_without_text: str
    document_without_target: str
    document_too_long: str
    document_over_limits: str
    document_duplicate: str
    document_near_duplicate: str
    document_duplicate_across_splits: str
    document_near_duplicate_across_splits: str
    document_over_weight: str
    document_needs_shaping: str
    document_glyph_missing: str
    document_does_not_fit: str
    paragraph_needs_shaping: str
    paragraph_glyph_missing: str
    paragraph_does_not_fit: str
    page_needs_shaping: str
    page_glyph_missing: str
    page_does_not_fit: str
    page_empty: str
    page_text_unmapped: str
    page_text_hidden: str
    word_without_ink: str
    page_picture_unreadable: str
    page_picture_too_large: str
    page_over_limits: str
    page_over_max_train_pages: str
    page_over_max_eval_pages: str


_NEEDS_SHAPING = "The script joins, reorders or rotates its letters. This text engine cannot do that; Pango can."
_GLYPH_MISSING = "No configured font has a glyph for one of the characters; it would show as an empty box."
_DOES_NOT_FIT = "Part of it is larger than the page's text area, even at min_font_size; nothing is ever clipped."
_OVER_LIMITS = (
    "Reading it took more time or memory than max_document_seconds and max_document_gib allow, or ended its process."
)
_EXPLANATIONS: _Explanations = {
    "file_unreadable": "A file, row or archive member is damaged, or is not of the kind that its name says.",
    "file_kind_not_read": "A file of a kind that is not read (unread_kinds counts them by suffix).",
    "file_link_not_followed": "A link that is broken, leads out of its folder or archive, or to a folder around it.",
    "file_without_picture": "A text file in a folder of scans that has no picture of the same name.",
    "file_without_key": "A member of an archive whose name has no key and suffix (key.txt), so it is in no sample.",
    "file_hidden": "A hidden file or folder (.name), or a lock file of an editor or office (~$name, thumbs.db).",
    "document_wrong_encoding": "The text is not in the configured encoding; the log names its likely one.",
    "document_without_column": "A row or table lacks the text column that other rows have.",
    "document_not_text": "The text field holds something other than text: a number, a list, nothing.",
    "document_empty": "Nothing visible is left after cleaning: only white space, control or zero-width characters.",
    "document_without_text": "A scan has no text file beside it, so its text is unknown.",
    "document_without_target": "The task is to summarize, and the row has no summary.",
    "document_too_long": "Longer than max_document_characters, or larger than the limit of all sources.",
    "document_over_limits": _OVER_LIMITS,
    "document_duplicate": "The same text as an earlier document, apart from case, white space and Unicode form.",
    "document_near_duplicate": "Nearly the same words as an earlier document (near_duplicate_threshold).",
    "document_duplicate_across_splits": "The same text as a document in the other split: training and evaluation "
    "never share one.",
    "document_near_duplicate_across_splits": "Nearly the same words as a document in the other split: training and "
    "evaluation never share one.",
    "document_over_weight": "More documents than the source's weight in the mixture allows.",
    "document_needs_shaping": _NEEDS_SHAPING,
    "document_glyph_missing": _GLYPH_MISSING,
    "document_does_not_fit": _DOES_NOT_FIT,
    "paragraph_needs_shaping": _NEEDS_SHAPING,
    "paragraph_glyph_missing": _GLYPH_MISSING,
    "paragraph_does_not_fit": _DOES_NOT_FIT,
    "page_needs_shaping": _NEEDS_SHAPING,
    "page_glyph_missing": _GLYPH_MISSING,
    "page_does_not_fit": _DOES_NOT_FIT,
    "page_empty": "Nothing is drawn on the page, or its text is unknown.",
    "page_text_unmapped": "The PDF's fonts do not map glyphs to characters: the text layer is not what one sees.",
    "page_text_hidden": "The PDF's text layer has many words that the page does not show.",
    "word_without_ink": "A word in a PDF's text layer that the page does not show (invisible, white, clipped, …).",
    "page_picture_unreadable": "The page's picture is damaged, or is not a picture.",
    "page_picture_too_large": "The page's picture has more pixels than max_picture_pixels.",
    "page_over_limits": _OVER_LIMITS,
    "page_over_max_train_pages": "Above the limit: max_train_pages were picked evenly over all documents.",
    "page_over_max_eval_pages": "Above the limit: max_eval_pages were picked, of as many documents as possible.",
}


class _OfTypesetting(TypedDict):
    needs_shaping: DropReason
    glyph_missing: DropReason
    does_not_fit: DropReason


class _OfPage(_OfTypesetting):
    empty: DropReason
    picture_unreadable: DropReason
    picture_too_large: DropReason
    over_limits: DropReason


OF_PARAGRAPH: _OfTypesetting = {
    "needs_shaping": "paragraph_needs_shaping",
    "glyph_missing": "paragraph_glyph_missing",
    "does_not_fit": "paragraph_does_not_fit",
}
OF_DOCUMENT: _OfTypesetting = {
    "needs_shaping": "document_needs_shaping",
    "glyph_missing": "document_glyph_missing",
    "does_not_fit": "document_does_not_fit",
}
OF_PAGE: _OfPage = {
    "needs_shaping": "page_needs_shaping",
    "glyph_missing": "page_glyph_missing",
    "does_not_fit": "page_does_not_fit",
    "empty": "page_empty",
    "picture_unreadable": "page_picture_unreadable",
    "picture_too_large": "page_picture_too_large",
    "over_limits": "page_over_limits",
}

_KINDS = {"file": "files", "document": "documents", "paragraph": "paragraphs", "page": "pages", "word": "words"}


def explain_drop(reason: str) -> str:
    """Return the meaning of ``reason``; for an unknown reason, such as another version's, the words of its name.

    >>> explain_drop("page_fell_down")
    'Page: fell down.'
    """
    if reason in get_args(DropReason):
        return _explanation(cast(DropReason, reason))
    kind, _, rest = reason.partition("_")
    words = f"{kind}: {rest}" if kind in _KINDS and rest else reason
    return words.replace("_", " ").capitalize() + "."


def _explanation(reason: DropReason) -> str:
    return _EXPLANATIONS[reason]


def dropped_kind(reason: str) -> str:
    """Return what a reason counts: files, documents, paragraphs or pages; "" if its name does not say."""
    return _KINDS.get(reason.partition("_")[0], "")
