"""Hostile settings, addresses, names and texts for pages: short texts that are no files of a source."""

from tests.hostile.hostile_input import HostileInput, fixed

_ALIASES = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
_MERGES = "a0: &a0 {k: v}\n" + "".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 40))
SETTINGS = [
    HostileInput("YAML", "train twice", "a key twice", fixed("train: {r: 1}\ntrain: {r: 2}\n"), "refused"),
    HostileInput("YAML", "inner key twice", "a key twice, inside", fixed("train:\n  r: 1\n  r: 2\n"), "refused"),
    HostileInput("YAML", "JSON key twice", "a key twice, in JSON", fixed('{"a": 1, "a": 2}'), "refused"),
    HostileInput("YAML", "aliases of aliases", "nine lines that hold 387 million values", fixed(_ALIASES), "refused"),
    HostileInput("YAML", "merges of merges", "40 lines that merge a million million pairs", fixed(_MERGES), "refused"),
    HostileInput("YAML", "merges itself", "a mapping merged inside of itself", fixed("a: &a {b: {<<: *a}}"), "refused"),
    HostileInput("YAML", "itself", "a list that holds itself", fixed("a: &a [*a]\n"), "refused"),
    HostileInput(
        "code",
        "Python object",
        "a tag that runs a command",
        fixed("a: !!python/object/apply:os.system ['touch x']\n"),
        "refused",
    ),
    HostileInput(
        "code", "Python name", "a tag that imports a module", fixed("a: !!python/name:os.system\n"), "refused"
    ),
    HostileInput("deep JSON", "deep JSON", "100,000 nested lists", fixed('{"a": ' + "[" * 100_000), "refused"),
    HostileInput("deep JSON", "deep YAML", "5,000 nested lists", fixed("a: " + "[" * 5_000), "refused"),
    HostileInput("YAML", "a list", "no mapping", fixed("- a\n"), "refused"),
    HostileInput("YAML", "a number as key", "a key that is no text", fixed("1: a\n"), "refused"),
    HostileInput("YAML", "terminal commands", "control characters", fixed("a: \x1b[2J\n"), "refused"),
    HostileInput("YAML", "two documents", "two documents in one file", fixed("a: 1\n---\nb: 2\n"), "refused"),
    HostileInput("YAML", "no end", "a quote that is never closed", fixed('a: "b\n'), "refused"),
    HostileInput(
        "YAML", "an emoji as JSON", "an escaped pair of surrogates", fixed('{"a": "\\ud83d\\ude00"}'), "kept 1"
    ),
]

SECRET = "sesame"
ADDRESSES = [
    HostileInput("addresses", address, how, fixed(address), "hidden")
    for address, how in (
        ("http://me:sesame@host:5000/", "a password"),
        ("http://me:s@sesame@host/", "a password with @"),
        ("http://me:a/sesame@host/", "a password with /"),
        ("http://me:a?sesame@host/", "a password with ?"),
        ("http://me:a#sesame@host/", "a password with #"),
        ("http://sesame@host/", "a token as user"),
        ("postgresql+psycopg2://me:sesame@db/x", "a driver in the scheme"),
        ("s3://key:sesame@bucket/x", "a key of a store"),
        ("cannot reach http://me:sesame@host: refused", "inside a message"),
        ("('http://me:sesame@host', 5)", "inside a tuple"),
        ("http://me:%73esame:sesame@host", "an escaped password"),
        ("HTTPS://ME:sesame@HOST/x?y=1@2", "capitals, and another @ behind"),
        ("http://DOM/me:sesame@proxy:80", "a user with /"),
        ("http://me:a sesame@host/", "a password with a space"),
        (r"http:\/\/me:sesame@host\/", "escaped as in JSON"),
        ("http%3A%2F%2Fme%3Asesame%40host", "an address as a query's value"),
        ("http:/me:sesame@host", "one slash, as a path library leaves it"),
        ("me:sesame@host:5000", "no scheme"),
        ("me@mail.example:sesame@host:5000", "no scheme, and a mail address as user"),
        ("https://host/x?page=1&X-Amz-Signature=sesame", "a signed address"),
    )
]

PAGE_TEXTS = [
    HostileInput("pages", name, how, fixed(text), "inert")
    for name, how, text in (
        ("script", "an element", "<script>alert(1)</script>"),
        ("handler", "a handler", "<img src=x onerror=alert(1)>"),
        ("svg", "a handler", "<svg/onload=alert(1)>"),
        ("picture", "a remote picture", "![p](https://evil.example/p.png)"),
        ("link", "a script as address", "[a](javascript:alert(1))"),
        ("bare link", "an address", "https://evil.example/a"),
        ("www", "an address without scheme", "www.evil.example"),
        ("mail", "a mail address", "me@evil.example"),
        ("table", "a cell's end", "a | b | c"),
        ("code", "a fence", "```\ncode\n```"),
        ("heading", "a heading", "# heading"),
        ("comment", "a comment that hides the rest", "<!-- "),
        ("style", "a style", "<style>*{display:none}</style>"),
        ("frame", "a frame", "<iframe src=https://evil.example>"),
        ("entity", "escaped brackets", "&lt;script&gt;"),
        ("reference", "a link's definition", "[a]: https://evil.example"),
    )
]
TERMINAL_TEXTS = [
    HostileInput("terminal", name, how, fixed(text), "inert")
    for name, how, text in (
        ("clear", "clears the screen", "\x1b[2J"),
        ("title", "sets the title", "\x1b]0;title\x07"),
        ("C1", "a one-byte command", "\x9b31m"),
        ("override", "turns a name around", "a\u202egnp.exe"),
        ("isolate", "hides the order", "\u2066a\u2069"),
        ("return", "writes over the line", "error\rfine   "),
        ("backspace", "takes letters back", "rm\x08\x08ls"),
        ("tag", "invisible letters", "a\U000e0041b"),
    )
]
FILE_NAMES = [
    HostileInput("names", name, how, fixed("A text."), "kept 1")
    for name, how in (
        ("what?.txt", "a question mark"),
        ("50%25 off.txt", "a percent sign"),
        ("#.txt", "a hash"),
        ("a b\tc.txt", "a tab"),
        ("a\nb.txt", "a line break"),
        ("\u202etxt.exe.txt", "an override"),
        ("-rf.txt", "an option of a command"),
        ("$(touch x).txt", "a command of a shell"),
        ("{000..009}.txt", "a brace pattern"),
        ("'; DROP TABLE runs; --.txt", "a statement of SQL"),
        ("<img src=x>.txt", "an element"),
        ("é" * 100 + ".txt", "200 bytes"),
        ("a:b#page=1.txt", "the marks of ids"),
        ("con.txt", "a device of another system"),
    )
]
