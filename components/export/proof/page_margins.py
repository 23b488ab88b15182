"""A page that vLLM's DeepSeek-OCR-2 and transformers' draw at the same place of the square that the model sees.

Both scale a page to the square's side and centre it. vLLM does so with ``PIL.ImageOps.pad``, as DeepSeek's published
code does: the first margin is ``round(margin * 0.5)``, and Python rounds halves to the even number. transformers 5.17
(``pad_to_square``) takes ``margin // 2``. So a page whose margin leaves 3 when it is divided by 4 stands one pixel
further right or lower in vLLM.
"""

from PIL import Image, ImageOps


def equally_centred(page: Image.Image, side: int) -> Image.Image:
    """Return the page, extended at its right or lower edge until both put it at the same place of a square.

    Args:
        side: of the square, in pixels.

    It has the colour of its last pixel there. In the square that is a strip of one or two pixels.
    """
    while not _is_equally_centred(page.size, side):
        border = (0, 0, 1, 0) if page.height > page.width else (0, 0, 0, 1)
        corner = page.getpixel((page.width - 1, page.height - 1))
        page = ImageOps.expand(page, border, fill=corner)  # type: ignore[arg-type]
    return page


def _is_equally_centred(size: tuple[int, int], side: int) -> bool:
    short, long = sorted(size)
    vllms, transformers = round(short / long * side), round(short * (side / long))
    margin = side - vllms
    return vllms == transformers and round(margin * 0.5) == margin // 2
