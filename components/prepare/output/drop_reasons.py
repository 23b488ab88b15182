"""What the reasons for leaving something out of a dataset mean, in plain words."""

_OF_ONE_KIND = {
    "file_unreadable": "A file, row or archive member is damaged or is not what its name says.",
    "document_not_text": "The text field holds something else than a text: a number, a list, nothing.",
    "document_empty": "No visible character is left after cleaning: blanks, control or zero-width characters only.",
    "document_without_text": "A scan has no text beside it, so that nobody knows what stands on it.",
    "document_without_target": "The task is to summarize, and the row has no summary.",
    "document_too_long": "Longer than max_document_characters, or larger than any source may hand over.",
    "document_duplicate": "The same text as a document before it, but for case, blanks and the forms of letters.",
    "document_near_duplicate": "Nearly the same words as a document before it (near_duplicate_threshold).",
    "document_duplicate_across_splits": "The same text as a document on the other side: training and evaluation "
    "never share one.",
    "document_near_duplicate_across_splits": "Nearly the same words as a document on the other side: training and "
    "evaluation never share one.",
    "document_over_weight": "More documents than the source's weight in the mixture allows.",
    "page_empty": "Nothing is drawn on the page, or no text is known of it.",
    "page_text_unmapped": "The PDF's fonts do not say which letters they draw: the text layer is not what one sees.",
    "page_picture_unreadable": "The page's picture is damaged, or is none.",
    "page_picture_too_large": "The page's picture has more pixels than max_picture_pixels.",
    "page_over_max_train_pages": "Not wanted: max_train_pages were picked evenly over all documents.",
    "page_over_max_eval_pages": "Not wanted: max_eval_pages were picked evenly over all documents.",
}
# One paragraph that cannot be set is dropped alone where the page can go on without it, else the page or the document.
_OF_ANY_KIND = {
    "needs_shaping": "The script joins, reorders or turns its letters, which this text engine cannot do; Pango can.",
    "glyph_missing": "No configured font has a glyph for one of the characters; it would show as an empty box.",
    "does_not_fit": "A part of it is larger than the page's text area, at min_font_size too; nothing is ever clipped.",
}
_KINDS = {"file": "files", "document": "documents", "paragraph": "paragraphs", "page": "pages"}


def explain_drop(reason: str) -> str:
    """Return what ``reason`` means; of one that is not known, its words.

    >>> explain_drop("page_fell_down")
    'Page: fell down.'
    """
    kind, _, rest = reason.partition("_")
    if known := _OF_ONE_KIND.get(reason) or (_OF_ANY_KIND.get(rest) if kind in _KINDS else None):
        return known
    words = f"{kind}: {rest}" if kind in _KINDS and rest else reason
    return words.replace("_", " ").capitalize() + "."


def dropped_kind(reason: str) -> str:
    """Return what a reason counts: files, documents, paragraphs or pages; "" where its name does not say."""
    return _KINDS.get(reason.partition("_")[0], "")
