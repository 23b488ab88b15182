"""Makes the texts that the tiny base was trained on: prose, random words and random characters.

    python -m components.shared.tiny_base_recipe.texts OUT.jsonl --documents 60000 --seed 0

Of six documents two are prose, the docstrings of numpy, scipy and sklearn. The others cannot be guessed by a language
model: three are words of that prose in random order, one is random strings of every printable character.
The quickstart's texts (the Python language reference) are not among them.
"""

import argparse
import importlib
import inspect
import json
import pkgutil
import random
import string
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

PACKAGES = ("numpy", "scipy", "sklearn")
CHARACTERS = string.ascii_letters * 2 + string.digits * 3 + string.punctuation * 2 + "“”‘’–—…°"
KINDS = ("prose", "words", "characters")
_TURNS = ("prose", "words", "words", "prose", "words", "characters")
_CHARACTERS_PER_DOCUMENT = 300


def prose(packages: tuple[str, ...]) -> list[str]:
    """Return the distinct docstrings of all public functions, classes and modules of ``packages``, sorted."""
    found: set[str] = set()
    for module in _modules(packages):
        found.add(inspect.getdoc(module) or "")
        for name, member in vars(module).items():
            if not name.startswith("_") and (inspect.isclass(member) or callable(member)):
                found.add(inspect.getdoc(member) or "")
    return sorted(text for text in found if len(text) > 80)


def random_words(vocabulary: list[str], choice: random.Random) -> str:
    """Return words in random order, some of them capitalised, upper case, quoted or followed by punctuation."""
    words = []
    for _ in range(_CHARACTERS_PER_DOCUMENT // 7):
        word = choice.choice(vocabulary)
        word = choice.choices([word, word.capitalize(), word.upper()], [6, 3, 1])[0]
        words.append(choice.choices([word, f'"{word}"', f"({word})", word + choice.choice(",.;:!?")], [8, 1, 1, 2])[0])
    return " ".join(words)


def random_characters(choice: random.Random) -> str:
    """Return strings of 1 to 12 random printable characters, separated by spaces."""
    return " ".join(
        "".join(choice.choices(CHARACTERS, k=choice.randint(1, 12))) for _ in range(_CHARACTERS_PER_DOCUMENT // 7)
    )


def documents(
    count: int, seed: int, packages: tuple[str, ...] = PACKAGES, kinds: tuple[str, ...] = KINDS
) -> Iterator[str]:
    """Yield ``count`` texts of about 300 characters, alternating between the kinds; skip those not in ``kinds``."""
    choice = random.Random(seed)
    texts = prose(packages)
    vocabulary = sorted({word for text in texts for word in text.split() if word.isalpha() and word.isascii()})
    for number in range(count):
        kind = _TURNS[number % len(_TURNS)]
        if kind == "prose":
            text = choice.choice(texts)
            start = choice.randrange(max(1, len(text) - _CHARACTERS_PER_DOCUMENT))
            made = " ".join(text[start : start + _CHARACTERS_PER_DOCUMENT].split()[1:-1])
        elif kind == "words":
            made = random_words(vocabulary, choice)
        else:
            made = random_characters(choice)
        if kind in kinds:
            yield made


def _modules(packages: tuple[str, ...]) -> Iterator[ModuleType]:
    for name in packages:
        package = importlib.import_module(name)
        yield package
        for info in pkgutil.iter_modules(package.__path__, f"{name}."):
            if "._" not in info.name and not info.name.endswith((".tests", ".conftest", ".setup")):
                yield importlib.import_module(info.name)


def main() -> None:
    """Write the documents as JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--documents", type=int, default=60_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--packages", default=",".join(PACKAGES), help="whose docstrings are the prose")
    parser.add_argument("--kinds", default=",".join(KINDS), help="which of the kinds are written")
    options = parser.parse_args()
    packages, kinds = tuple(options.packages.split(",")), tuple(options.kinds.split(","))
    with options.output.open("w", encoding="utf-8") as stream:
        for text in documents(options.documents, options.seed, packages, kinds):
            stream.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
