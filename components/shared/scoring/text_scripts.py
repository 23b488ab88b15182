"""The script in which a text is written."""

from collections import Counter

from fontTools import unicodedata

_OF_NO_SCRIPT = {"Zyyy", "Zinh", "Zzzz"}
_KANA = {"Hira", "Kana"}
NO_LETTERS = "(no letters)"


def script_of(text: str) -> str:
    """Return the English name of the script that most of the text's letters belong to; kana make a text Japanese.

    >>> script_of("3 Katzen, кот"), script_of("漢字かな交じり文"), script_of("12.5")
    ('Latin', 'Japanese', '(no letters)')
    """
    letters: Counter[str] = Counter()
    for character, count in Counter(text).items():
        letters[str(unicodedata.script(character))] += count
    for script in _OF_NO_SCRIPT:
        letters.pop(script, None)
    if not letters:
        return NO_LETTERS
    if _KANA & letters.keys():
        return "Japanese"
    most = min(letters, key=lambda script: (-letters[script], script))
    return str(unicodedata.script_name(most)).replace("_", " ")
