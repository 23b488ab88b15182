"""Draws a document: its pages as encoded pictures with labels, and counts of what could not be drawn."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from components.prepare.config import PrepareConfig
from components.prepare.documents.document import PagePicture
from components.prepare.documents.drop_reasons import OF_DOCUMENT, OF_PAGE, OF_PARAGRAPH
from components.prepare.output.merged_pages import PageKey
from components.prepare.output.png import encode_image
from components.prepare.rendering.augmentation import augment
from components.prepare.rendering.composition import ComposedPage, compose
from components.prepare.rendering.page_drawing import draw_page
from components.prepare.rendering.page_look import PageLook, page_look
from components.prepare.rendering.page_pictures import PageError
from components.prepare.rendering.paragraphs import Paragraph, cut_behind, is_end, split_paragraphs
from components.prepare.rendering.picture_loader import PictureLoader
from components.prepare.rendering.rendered_document import FailedPage, RenderedDocument, RenderedPage
from components.prepare.selection.selected_document import SelectedDocument
from components.prepare.typesetting.engine_choice import choose_engine
from components.prepare.typesetting.fonts import FontFace
from components.prepare.typesetting.text_engine import CannotBeSetError
from components.shared.artifacts.dataset_manifest import Split
from components.shared.datasets.letter_height import letter_height

_NO_LIMIT: PageKey = (2**32, 0)
_RANKS_OF_A_RENDERING = 2**20
"""More pages than a document has: all pages of the first rendering come before those of the second."""


_STOPPING = ("picture_unreadable", "over_limits")


@dataclass(frozen=True)
class _Place:
    """A page's number in one rendering of the document, and the look that its seed chose."""

    number: int
    order: int
    look: PageLook


@dataclass(frozen=True)
class _DrawnPage:
    place: _Place
    rank: int
    image: bytes
    about: dict[str, Any]
    letter_height: float | None


class DocumentRenderer:
    """Draws documents; create one object per worker process.

    Raises:
        UserError: Pango is requested and not installed.
    """

    def __init__(self, config: PrepareConfig, faces: list[FontFace]) -> None:
        self._config = config
        self._faces = faces
        self._engine = choose_engine(config.text_engine, faces).engine
        instruction = config.instruction if config.instruction_in_image else None
        self._instruction = split_paragraphs(instruction or "", reflow=True)
        self._loader = PictureLoader(config.reading_limits(), config.picture_longest_edge, config.max_picture_pixels)

    def close(self) -> None:
        """End the process that opens pictures, if there is one."""
        self._loader.close()

    def render(self, document: SelectedDocument, last_kept: Mapping[Split, PageKey]) -> RenderedDocument:
        """Draw the pages of ``document``; pages whose key is above the split's last one are only counted."""
        rendered = RenderedDocument()
        limit = last_kept.get(document.split, _NO_LIMIT)
        digest = hashlib.sha256(document.text.encode("utf-8")).hexdigest()
        for rendering in range(self._config.renderings_per_document):
            places = _Places(f"{self._config.seed}:{digest}:{rendering}", self._config, len(self._faces))
            # Draw all pages before writing metadata: it holds the number of pages.
            drawn = list(self._drawn_pages(document, places, limit, rendered, rendering * _RANKS_OF_A_RENDERING))
            of_all = {
                "source_id": document.source_id,
                "lang": document.lang,
                "pages": places.taken,
                "rendering": rendering,
            }
            rendered.attempted += places.taken
            rendered.pages += [
                RenderedPage(page.place.order, page.rank, page.image, _json(of_all | page.about), page.letter_height)
                for page in drawn
            ]
        return rendered

    def _drawn_pages(
        self,
        document: SelectedDocument,
        places: "_Places",
        limit: PageKey,
        rendered: RenderedDocument,
        rank: int,
    ) -> Iterator[_DrawnPage]:
        if document.pictures:
            pages = self._pictures(document, places)
        elif self._config.task == "summarize":
            pages = self._summarized(document, places, rendered)
        else:
            pages = self._transcribed(document, places, rendered)
        ranked = self._config.documents_first(document.split)
        rank = rank if ranked else 0
        for place, draw in sorted(pages, key=lambda page: page[0].order) if ranked else pages:
            if (rank, place.order) > limit:
                continue
            try:
                gray, about = draw()
            except (CannotBeSetError, PageError) as error:
                rendered.failed.append(_failed_page(document, place, rank, error))
            else:
                yield self._finished(place, rank, gray, about)
                rank += ranked

    def _transcribed(
        self, document: SelectedDocument, places: "_Places", rendered: RenderedDocument
    ) -> Iterator[tuple[_Place, "_Draw"]]:
        """Yield the pages that the text is split into; a paragraph that cannot be drawn is left out and counted."""
        paragraphs = split_paragraphs(document.text, self._config.reflow)
        first = 0
        while first < len(paragraphs):
            place = places.next()
            try:
                page = self._composed(paragraphs, first, place.look, document.lang)
            except CannotBeSetError as error:
                rendered.dropped[OF_PARAGRAPH[error.reason]] += 1
                first += 1
                continue
            places.take()
            original = _text_between(paragraphs, first, page)
            drawn = "\n".join(flow_line.line.text for flow_line in page.text_lines)
            label = drawn if self._config.label_lines == "drawn" else original
            yield place, partial(self._drawn, page, place.look, {"text": label, "original_text": original})
            first = cut_behind(paragraphs, page.text_lines[-1])

    def _summarized(
        self, document: SelectedDocument, places: "_Places", rendered: RenderedDocument
    ) -> Iterator[tuple[_Place, "_Draw"]]:
        """Yield one page with the whole text, or drop and count the document."""
        place = places.next()
        try:
            page = self._shrunk(split_paragraphs(document.text, self._config.reflow), place.look, document.lang)
        except CannotBeSetError as error:
            rendered.dropped[OF_DOCUMENT[error.reason]] += 1
            return
        places.take()
        labels = {"text": document.target, "original_text": document.original_text or document.text}
        yield place, partial(self._drawn, page, place.look, labels)

    def _pictures(self, document: SelectedDocument, places: "_Places") -> Iterator[tuple[_Place, "_Draw"]]:
        """Yield the document's own pages."""
        for picture in document.pictures:
            place = places.next()
            places.take()
            yield place, partial(self._loaded, picture)

    def _shrunk(self, paragraphs: list[Paragraph], look: PageLook, lang: str) -> ComposedPage:
        """Return the page at the largest font size, from the look's down to the minimum, at which the whole text fits.

        Raises:
            CannotBeSetError: the text does not fit at the minimum, or cannot be drawn at all.
        """
        best: ComposedPage | None = None
        low, high = min(self._config.min_font_size, look.font_size), look.font_size
        size = high
        while low <= high:
            page = self._composed(paragraphs, 0, look, lang, size)
            if page.end_reason:
                raise CannotBeSetError(page.end_reason)
            if is_end(paragraphs, page.text_lines[-1]):
                best, low = page, size + 1
            else:
                high = size - 1
            size = (low + high + 1) // 2
        if best is None:
            raise CannotBeSetError("does_not_fit")
        return best

    def _composed(
        self, paragraphs: list[Paragraph], first: int, look: PageLook, lang: str, font_size: int | None = None
    ) -> ComposedPage:
        multiple = self._config.page_size_multiple
        return compose(paragraphs, first, self._instruction, look, self._engine, lang, multiple, font_size)

    def _drawn(self, page: ComposedPage, look: PageLook, labels: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
        used = [self._faces[face].name for face in self._engine.used_faces(page.placed, page.style)]
        about = {
            **labels,
            "drawn_text": page.drawn_text,
            "font": used[0],
            "fallback_fonts": used[1:],
            "font_size": page.style.font_size,
            "columns": look.columns,
            "mode": look.mode,
        }
        return draw_page(page, look, self._engine), about

    def _loaded(self, picture: PagePicture) -> tuple[np.ndarray, dict[str, Any]]:
        if not picture.text:
            raise PageError("empty", f"{picture.path}: this page has no text")
        about: dict[str, Any] = dict.fromkeys(("text", "original_text", "drawn_text"), picture.text)
        gray = self._loader.load(picture)
        height = letter_height(gray)
        about |= {"font": None, "fallback_fonts": [], "font_size": None, "columns": None, "mode": None}
        return gray, about | {"letter_height": None if height is None else round(height, 1)}

    def _finished(self, place: _Place, rank: int, gray: np.ndarray, about: dict[str, Any]) -> _DrawnPage:
        augmented = augment(gray, self._config.augmentation, place.look.augmentation_seed, place.look.paper)
        image = encode_image(augmented.page, self._config.image_format)
        height, width = augmented.page.shape
        finished = {
            "page": place.number,
            "task": self._config.task,
            "instruction": self._config.instruction,
            "resolution": f"{width}x{height}",
            "augmentation": augmented.applied,
            "sha256": hashlib.sha256(image).hexdigest(),
        }
        return _DrawnPage(place, rank, image, about | finished, about.get("letter_height"))


def _failed_page(
    document: SelectedDocument, place: _Place, rank: int, error: CannotBeSetError | PageError
) -> FailedPage:
    name, stops = f"{document.source_id}#page={place.number}", False
    if document.pictures:
        picture = document.pictures[place.number - 1]
        index = picture.page_index
        name = document.source_id if index is None else f"{document.source_id}#page={index + 1}"
        stops = picture.on_unreadable == "stop" and error.reason in _STOPPING
    return FailedPage(place.order, rank, OF_PAGE[error.reason], name, str(error), stops)


_Draw = Callable[[], tuple[np.ndarray, dict[str, Any]]]


class _Places:
    """Numbers the pages of one rendering; the seed and the page number choose a page's look."""

    def __init__(self, seed: str, config: PrepareConfig, face_count: int) -> None:
        self._seed = seed
        self._config = config
        self._face_count = face_count
        self.taken = 0

    def next(self) -> _Place:
        """Return the page after the last one taken."""
        number = self.taken + 1
        digest = hashlib.sha256(f"{self._seed}:{number}".encode()).digest()
        look = page_look(self._config, self._face_count, digest)
        return _Place(number, int.from_bytes(digest[:8], "big"), look)

    def take(self) -> None:
        """Count the page that ``next`` returned."""
        self.taken += 1


def _text_between(paragraphs: list[Paragraph], first: int, page: ComposedPage) -> str:
    """Return the page's text, starting at paragraph ``first``, without the line breaks due to the page's width."""
    last = page.text_lines[-1]
    whole = [paragraph.text for paragraph in paragraphs[first : last.paragraph]]
    return "\n".join([*whole, paragraphs[last.paragraph].text[: last.end].rstrip()])


def _json(metadata: dict[str, Any]) -> bytes:
    # UTF-8 cannot encode a lone surrogate in a source's text; JSON can, as an escape.
    return json.dumps(metadata, ensure_ascii=False, sort_keys=True).encode("utf-8", "backslashreplace")
