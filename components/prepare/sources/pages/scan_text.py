"""Reads the text of a scanned page from ALTO and hOCR, the formats of OCR engines and archives."""

from collections.abc import Iterable
from itertools import groupby, pairwise

import regex
from lxml import etree

from components.prepare.documents.text_decoding import UTF_8, decode_text

_TRUE_LINES = frozenset(("ocr_line", "ocrx_line"))
_FORMULAS = ("math", "chem")
_HOCR_LINES = _TRUE_LINES.union(
    f"ocr_{name}"
    for name in ("header", "footer", "caption", "textfloat", "pageno", "title", "author", "dropcap", *_FORMULAS)
)
"""Those that are no true lines are lines of their own outside of one, and a part of it inside."""
_SECTIONS = ("abstract", "blockquote", "display", "linear", "part", "chapter", "section", "subsection", "subsubsection")
_AREAS = ("document", "page", "column", "carea", "par", "float", "table", "image", "textimage", "linedrawing", "photo")
_HOCR_BLOCKS = _HOCR_LINES | {f"ocr_{name}" for name in (*_SECTIONS, *_AREAS)} | {"ocrx_block"}
"""The classes of hOCR 1.2 that hold lines; some of them are lines themselves in files of some engines."""
_NO_TEXT = "ancestor::script or ancestor::style or ancestor::template"
_WITHOUT_SPACES = regex.compile(r"[\p{sc=Han}\p{sc=Hira}\p{sc=Kana}\p{sc=Thai}\p{sc=Laoo}\p{sc=Khmr}\p{sc=Mymr}]")

_Piece = tuple[etree._Element | None, str]
"""A text, and the word that it is in."""


class ScanTextError(Exception):
    """The file does not have the format that its name says; the message says why."""


def alto_text(content: bytes, encoding: str = UTF_8) -> str:
    """Return the text of an ALTO file (any version) of one page: a line per ``TextLine``, a blank line between blocks.

    Blocks are in the order of the page's ``ReadingOrder`` (ALTO 4.3), otherwise in file order. The text is what the
    page shows: a hyphen at the end of a line stays, and words are not joined across lines. XML declares
    its own encoding, so ``encoding`` is not used.

    Raises:
        ScanTextError: not XML, declares entities, not ALTO, or not exactly one page.
    """
    root = _parsed_xml(content)
    if etree.QName(root).localname.lower() != "alto":
        raise ScanTextError(f"not ALTO but {etree.QName(root).localname}")
    pages = root.findall(".//{*}Layout/{*}Page")
    if len(pages) != 1:
        raise ScanTextError(f"{len(pages)} pages in one ALTO file, one is needed")
    lines: dict[etree._Element, list[str]] = {}
    for line in pages[0].iter("{*}TextLine"):
        block = next(line.iterancestors("{*}TextBlock"), line.getparent())
        lines.setdefault(block, []).append(_alto_line(line))
    return _paragraphs(lines[block] for block in _in_reading_order(root, list(lines)))


def hocr_text(content: bytes, encoding: str = UTF_8) -> str:
    """Return the text of an hOCR file of one page: a line per line element, a blank line between paragraphs.

    Raises:
        WrongEncodingError: not in ``encoding``.
        ScanTextError: not HTML, not exactly one page, or without lines.
    """
    text = decode_text(content, encoding)
    try:
        root = etree.fromstring(
            text.encode("utf-8", "replace"), etree.HTMLParser(encoding="utf-8", no_network=True, huge_tree=False)
        )
    except (etree.LxmlError, ValueError) as error:
        raise ScanTextError(f"not HTML ({error})") from error
    pages = [] if root is None else [element for element in root.iter() if "ocr_page" in _classes(element)]
    if len(pages) != 1:
        raise ScanTextError(f"{len(pages)} elements of class ocr_page, one is needed")
    page = pages[0]
    classes = [_classes(element) for element in page.iter()]
    if any("ocrx_word" in names for names in classes) and all(names.isdisjoint(_HOCR_LINES) for names in classes):
        raise ScanTextError("words, but no element of class ocr_line")
    groups = groupby(_hocr_lines(page), key=lambda line: line[0])
    return _paragraphs([" ".join(text.split()) for _, text in group] for _, group in groups)


def _hocr_lines(page: etree._Element) -> list[tuple[etree._Element, str]]:
    """Return the block and the text of each line, in file order.

    A piece of text belongs to the line around it, and without one to the innermost element that can be a line or a
    block, so no container repeats the text of a line in it.
    """
    lines: list[tuple[etree._Element, list[_Piece]]] = []
    last = None
    for piece in page.xpath(f".//text()[not({_NO_TEXT})]"):
        owner = piece.getparent().getparent() if piece.is_tail else piece.getparent()
        around = [owner, *owner.iterancestors()]
        line = _first_of(_TRUE_LINES, around)
        if line is None:
            line = next(above for above in around if not _classes(above).isdisjoint(_HOCR_BLOCKS))
        word = _first_of(frozenset(("ocrx_word",)), around)
        if line is last and lines:
            lines[-1][1].append((word, str(piece)))
        elif not piece.isspace():
            is_line = not _classes(line).isdisjoint(_HOCR_LINES)
            block = _first_of(_HOCR_BLOCKS, line.iterancestors()) if is_line else None
            lines.append((line if block is None else block, [(word, str(piece))]))
            last = line
    return [(block, _with_spaces(pieces)) for block, pieces in lines]


def _first_of(classes: frozenset[str], elements: Iterable[etree._Element]) -> etree._Element | None:
    return next((element for element in elements if not _classes(element).isdisjoint(classes)), None)


def _with_spaces(pieces: list[_Piece]) -> str:
    """Return the text of a line; with spaces between its words if there are none, as some writers omit them all."""
    groups = [(word, "".join(text for _, text in group)) for word, group in groupby(pieces, key=lambda piece: piece[0])]
    while len(groups) > 1 and not groups[-1][1].strip():  # a line break behind the last word
        groups.pop()
    whole = "".join(text for _, text in groups)
    if any(text != text.strip() for _, text in groups[:-1]) or groups[-1][1] != groups[-1][1].lstrip():
        return whole
    text = ""
    for (before, _), (word, of_word) in pairwise([(None, ""), *groups]):
        alone = text and of_word and not (_WITHOUT_SPACES.match(text[-1]) and _WITHOUT_SPACES.match(of_word))
        text += (" " if alone and before is not None and word is not None else "") + of_word
    return text


def _parsed_xml(content: bytes) -> etree._Element:
    # libxml2 limits the expansion of entities in attributes but would drop those in elements: reject all of them.
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    try:
        root = etree.fromstring(content, parser)
    except (etree.LxmlError, ValueError) as error:
        raise ScanTextError(f"not XML ({error})") from error
    declared = root.getroottree().docinfo.internalDTD
    if declared is not None and any(True for _ in declared.iterentities()):
        raise ScanTextError("it declares entities, which are not expanded")
    return root


def _in_reading_order(root: etree._Element, blocks: list[etree._Element]) -> list[etree._Element]:
    places: dict[str, int] = {}
    for number, reference in enumerate(root.findall(".//{*}ReadingOrder//{*}ElementRef")):
        places.setdefault(reference.get("REF", ""), number)
    return sorted(blocks, key=lambda block: _place(block, places))  # stable; blocks without a reference come last


def _place(block: etree._Element, places: dict[str, int]) -> int:
    """Return the place that the reading order gives the block, a block around it, or the first of its lines."""
    around = [block, *block.iterancestors("{*}ComposedBlock"), *block.iter("{*}TextLine")]
    return next((places[name] for element in around if (name := element.get("ID", "")) in places), len(places))


def _alto_line(line: etree._Element) -> str:
    children = [(etree.QName(child).localname, child) for child in line.iterchildren(tag=etree.Element)]
    # Some writers omit all spaces. If there are any, words without a space between them are adjacent.
    between = "" if any(kind == "SP" for kind, _ in children) else " "
    text = ""
    for kind, child in children:
        if kind == "String":
            text += (between if text else "") + child.get("CONTENT", "")
        elif kind == "SP":
            text += " "
        elif kind == "HYP":
            text += child.get("CONTENT", "-").replace("\N{SOFT HYPHEN}", "-")
    return " ".join(text.split())


def _classes(element: etree._Element) -> set[str]:
    return set((element.get("class") or "").split()) if isinstance(element.tag, str) else set()


def _paragraphs(blocks: Iterable[list[str]]) -> str:
    texts = ("\n".join(line for line in lines if line) for lines in blocks)
    return "\n\n".join(text for text in texts if text)
