"""Foreign text in Markdown pages (model card, verdict): shown as it is, and never as markup, link or HTML."""

import html
import re

from components.shared.errors import printable

_MARKUP = re.compile(r"([\\`*\[\]|~$!]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|^[#>+=-])")
_AUTOLINK = re.compile(r"(?i)(:)(?=//)|(?<=\bwww)(\.)|(?<=[a-z0-9])(@)(?=[a-z0-9])|(?<=mailto)(:)")
_PLAIN_CODE = re.compile(r"[A-Za-z0-9 ._,;+=/'\"(){}\[\]%?*-]*")
_IN_BLOCK = re.compile(r"[^\w ,\n-]")
_IN_CODE = re.compile(r"[^\w ,=/-]")


def markdown_text(text: object) -> str:
    r"""Return ``text`` on one line of Markdown, with everything escaped that could be markup, HTML or a link.

    >>> markdown_text("<script>x</script> [a](https://b.example) *c* snake_case")
    '&lt;script&gt;x&lt;/script&gt; \\[a\\](https&#58;//b.example) \\*c\\* snake_case'
    """
    line = html.escape(_one_line(text), quote=False)
    return _AUTOLINK.sub(lambda match: f"&#{ord(match[0])};", _MARKUP.sub(r"\\\1", line))


def markdown_code(text: object) -> str:
    """Return ``text`` as inline code, also in a table's cell.

    >>> markdown_code("q_proj"), markdown_code("a|`<b>")
    ('`q_proj`', '<code>a&#124;&#96;&#60;b&#62;</code>')
    """
    line = _one_line(text)
    if line and _PLAIN_CODE.fullmatch(line):
        return f"`{line}`"
    return f"<code>{_IN_CODE.sub(lambda match: f'&#{ord(match[0])};', line)}</code>"


def markdown_block(text: object) -> str:
    """Return a text of several lines, shown as it is written.

    >>> markdown_block("two <b>\\n\\nlines")
    '<pre>two &#60;b&#62;\\n\\nlines</pre>'
    """
    lines = printable("\n".join(str(text).splitlines()), keep="\n")
    return f"<pre>{_IN_BLOCK.sub(lambda match: f'&#{ord(match[0])};', lines)}</pre>"


def _one_line(text: object) -> str:
    return printable(" ".join(str(text).split()))
