"""Passwords in addresses appear in no log line, event, error, termination message or span."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.shared.errors import UserError, without_passwords
from tests.fixtures.mlflow_server import free_port
from tests.unit.shared.telemetry.test_tracing import attributes, receiving

USERS = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=":@?#"), max_size=8)
PLAIN_USERS = st.from_regex(r"\A[A-Za-z0-9._%+-]{1,8}\Z")
_WORDS = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="@/"), min_size=1, max_size=8)
PASSWORDS_WITH_SPACES = st.lists(_WORDS, min_size=2, max_size=5).map(" ".join).filter(lambda text: text[0].isalpha())
PASSWORDS = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF, exclude_categories=["Z", "C"]), max_size=20)
HOSTS = st.from_regex(r"\A[a-z][a-z0-9.-]{0,20}(:[0-9]{2,5})?(/[A-Za-z0-9._?=%/-]*)?\Z")
SCHEMES = st.sampled_from(["http", "https", "postgresql+psycopg2", "s3", "socks5h"])


@given(SCHEMES, USERS, PASSWORDS, HOSTS)
def test_user_and_password_are_hidden_whatever_they_hold(scheme: str, user: str, password: str, host: str) -> None:
    text = without_passwords(f"cannot reach {scheme}://{user}:{password}@{host} (refused)")
    assert text == f"cannot reach {scheme}://***@{host} (refused)"
    assert without_passwords(text) == text


@given(SCHEMES, PLAIN_USERS, PASSWORDS_WITH_SPACES, HOSTS)
def test_a_password_with_spaces_is_hidden(scheme: str, user: str, password: str, host: str) -> None:
    text = without_passwords(f"cannot reach {scheme}://{user}:{password}@{host} (refused)")
    assert text == f"cannot reach {scheme}://***@{host} (refused)"


@given(SCHEMES, PASSWORDS, HOSTS)
def test_an_error_of_the_user_hides_them_in_every_part(scheme: str, password: str, host: str) -> None:
    address, hidden = f"{scheme}://me:{password}@{host}", f"{scheme}://***@{host}"
    error = UserError(f"no answer from {address}", where=address, mend=f"check {address}")
    assert (error.problem, error.where, error.mend) == (f"no answer from {hidden}", hidden, f"check {hidden}")
    assert str(error) == f"{hidden}: no answer from {hidden}; check {hidden}"


@given(SCHEMES, HOSTS)
def test_an_address_without_a_password_stays(scheme: str, host: str) -> None:
    assert without_passwords(f"{scheme}://{host} is down") == f"{scheme}://{host} is down"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://DOM/user:secret@proxy:80", "http://***@proxy:80"),
        ("http:/me:secret@proxy:80", "http:/***@proxy:80"),
        (r'{"proxy": "http:\/\/me:secret@proxy\/x"}', r'{"proxy": "http:\/\/***@proxy\/x"}'),
        ("?next=http%3A%2F%2Fme%3Asecret%40proxy%2Fx", "?next=http%3A%2F%2F***%40proxy%2Fx"),
        ("hf://datasets/me/pages@main,http://me:secret@proxy", "hf://datasets/me/pages@main,http://***@proxy"),
        ("me:secret@proxy:5000 refuses", "***@proxy:5000 refuses"),
        ('{"proxy":"me:secret@proxy.example/x"}', '{"proxy":"***@proxy.example/x"}'),
        ("https://host/x?page=2&token=secret, later", "https://host/x?page=2&token=***, later"),
        ("'https://b.s3/x?X-Amz-Signature=00ff&sig=s%2Fx'", "'https://b.s3/x?X-Amz-Signature=***&sig=***'"),
        ("https://host?password=secret#top", "https://host?password=***#top"),
    ],
)
def test_a_password_is_hidden_however_the_address_is_spelled(text: str, expected: str) -> None:
    assert without_passwords(text) == expected
    assert without_passwords(expected) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://token@host/x", "https://***@host/x"),
        ("hf://datasets/me/pages@main/x.tar", "hf://datasets/me/pages@main/x.tar"),
        ("git+https://user@host/repository@v1", "git+https://***@host/repository@v1"),
    ],
)
def test_a_token_is_hidden_and_a_revision_stays(text: str, expected: str) -> None:
    assert without_passwords(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "ask me@example.org",
        "owner:me@example.org",
        "http://host:5000 is down, ask me@example.org",
        "http://host/x: no such file; ask me@example.org",
        "at 12:30@node1:5000",
        "step.py:12@node1:5000",
        "gpu:0@node1:29500",
        "postgres:16@sha256:0123456789abcdef",
        "git@github.com:me/repository.git",
        "https://host/x?page=2&max_tokens=512&design=plain",
        "loss=0.5 token=7",
    ],
)
def test_an_at_sign_or_a_name_elsewhere_stays(text: str) -> None:
    assert without_passwords(text) == text


MEGABYTE, QUARTER = 1_000_000, 250_000
HOSTILE = [
    *("/@", "//a:", "hf://", "http://a:b ", "@", ":", "(:", "a:12:", "?token", "&", r"\/", "%2F", " ", "//a:b x "),
]


@pytest.mark.parametrize("piece", HOSTILE)
def test_much_that_strangers_wrote_is_read_in_seconds(piece: str) -> None:
    """Work that grows with the square takes ten minutes and more here: 12,000 slashes took a second and a half."""
    text = piece * (QUARTER // len(piece))
    before = time.process_time()
    without_passwords(text + "=@host:80%40")
    assert time.process_time() - before < 60


def test_an_error_of_the_user_shows_a_long_part_cut_in_its_middle() -> None:
    password = "secret" * 1000
    error = UserError("a link to " + "/" * MEGABYTE, where=f"http://me:{password}@host", mend="x" * MEGABYTE + "end")
    assert "characters left out" in error.problem and error.where == "http://***@host"
    assert error.mend is not None and error.mend.endswith("xend")
    assert len(str(error)) < 5_000 and "secret" not in str(error)


def test_parts_that_a_library_quotes_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "me:s3cr/et%40word@proxy:3128")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "other-secret")
    said = "port 's3cr' is no number; login failed for me with s3cr/et@word or other-secret"
    assert without_passwords(said) == "port '***' is no number; login failed for me with *** or ***"


STEP = """
import os
from pipelines.task_side.task_entry import task
from components.shared.tracking.step_run import step_run
with task("train"):
    with step_run("train", {"proxy": os.environ["HTTPS_PROXY"]}):
        raise ValueError("cannot reach " + os.environ["HTTPS_PROXY"] + ": port 'hunt'")
"""


@pytest.mark.parametrize("log", ["text", "json"])
def test_a_step_that_fails_shows_no_password_anywhere(log: str, tmp_path: Path) -> None:
    others = ("MLFLOW", "KFP", "OTEL", "DEEPSYNTH", "TRACEPARENT")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    environment |= {
        "DEEPSYNTH_LOG": log,
        "MLFLOW_TRACKING_URI": f"http://me:hunt/tern@2.xx@127.0.0.1:{free_port()}",
        "HTTPS_PROXY": "http://me:hunt/tern@2.yy@127.0.0.1:9",
        "DEEPSYNTH_TERMINATION_LOG": str(tmp_path / "termination"),
        "DEEPSYNTH_PROGRESS_FILE": str(tmp_path / "events"),
    }
    with receiving() as receiver:
        environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = receiver.address
        answer = subprocess.run(
            [sys.executable, "-c", STEP], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
    assert answer.returncode == 1
    message, events = (tmp_path / "termination").read_text(), (tmp_path / "events").read_text()
    span = receiver.named("train")
    told = [answer.stdout, answer.stderr, message, events, span.status.message, str(attributes(span.events[0]))]
    for text in told:
        assert not any(part in text for part in ("hunt", "tern", "2.xx", "2.yy")), text
    assert "MLflow tracking at http://***@127.0.0.1" in answer.stderr and "ValueError" in answer.stderr
    assert "http://***@127.0.0.1:9" in message and "http://***@127.0.0.1:9" in events
