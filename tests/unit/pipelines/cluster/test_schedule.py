"""`deepsynth schedule` against a server that speaks KFP's REST API."""

import datetime
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.shared.errors import UserError
from pipelines.cluster.cron import cron_times
from tests.fixtures.cluster_command import Answer, Shell
from tests.fixtures.kfp_api_server import FakeKfp, RefusedError, check_robfig_cron, kfp_api_server

# A Thursday in winter: Berlin is one hour ahead of UTC, New York five behind, Kolkata five and a half ahead.
NOW = datetime.datetime(2026, 11, 26, 12, tzinfo=datetime.UTC)


@pytest.fixture
def kfp() -> Iterator[FakeKfp]:
    with kfp_api_server() as server:
        yield server


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path, monkeypatch, capsys)


def schedule(shell: Shell, kfp: FakeKfp, command: str, *arguments: str) -> Answer:
    return shell("schedule", command, *arguments, "--host", kfp.url, "--environment", "environment.yaml")


def test_a_schedule_runs_one_at_a_time_catches_nothing_up_and_skips_unchanged_data(shell: Shell, kfp: FakeKfp) -> None:
    answer = schedule(shell, kfp, "create", "weekly", "--cron", "0 3 * * 1", "--set", "evaluate.champion=letters")
    assert answer.code == 0, answer.err
    (recurring,) = kfp.recurring.values()
    assert recurring["trigger"] == {"cron_schedule": {"cron": "0 0 3 * * 1"}}
    assert (recurring["max_concurrency"], recurring["no_catchup"], recurring["mode"]) == ("1", True, "ENABLE")
    assert recurring["runtime_config"]["parameters"]["skip_if_unchanged"] is True
    assert recurring["runtime_config"]["parameters"]["run_pages"] == f"{kfp.url}/#/runs/details/"
    assert recurring["service_account"] == "deepsynth-pipeline"
    assert recurring["pipeline_version_reference"]["pipeline_version_id"] in kfp.versions
    times = [line.strip() for line in answer.out.splitlines() if line.startswith("  ")]
    assert len(times) == 3 and all(time.startswith("Mon ") and time.endswith(" 03:00 UTC") for time in times)
    assert "note" not in answer.out


def test_times_of_another_zone_are_converted_and_the_change_of_clocks_is_said(shell: Shell, kfp: FakeKfp) -> None:
    answer = schedule(shell, kfp, "create", "nightly", "--cron", "30 3 * * *", "--timezone", "Europe/Berlin")
    assert answer.code == 0, answer.err
    (recurring,) = kfp.recurring.values()
    hour = recurring["trigger"]["cron_schedule"]["cron"].split()[2]
    assert hour in ("1", "2"), "in summer and in winter"
    assert f"0{hour}:30 UTC = 03:30 Europe/Berlin" in answer.out
    assert "the clocks of Europe/Berlin change against UTC" in answer.out
    assert "names no evaluate.champion" in answer.out


def test_a_scheduler_of_the_same_zone_needs_no_conversion(shell: Shell, kfp: FakeKfp) -> None:
    (shell.folder / "environment.yaml").write_text("tag: 1-a\nscheduler_timezone: Europe/Berlin\n")
    answer = schedule(shell, kfp, "create", "nightly", "--cron", "30 3 * * *", "--timezone", "Europe/Berlin")
    (recurring,) = kfp.recurring.values()
    assert recurring["trigger"]["cron_schedule"]["cron"] == "0 30 3 * * *" and "clocks" not in answer.out


def test_list_pause_resume_and_delete(shell: Shell, kfp: FakeKfp) -> None:
    for name in ("weekly", "daily", "hourly"):
        assert schedule(shell, kfp, "create", name, "--cron", "0 3 * * *").code == 0
    assert schedule(shell, kfp, "pause", "daily").out == "daily is paused\n"
    rows = {line.split()[0]: line for line in schedule(shell, kfp, "list").out.splitlines()[1:]}
    assert list(rows) == ["daily", "hourly", "weekly"], "all pages"
    assert " paused " in rows["daily"] and " on " in rows["weekly"] and "0 0 3 * * *" in rows["weekly"]
    assert " 03:00 UTC" in rows["weekly"] and "UTC" not in rows["daily"], "a paused one has no next time"
    assert rows["weekly"].rstrip().endswith("1.2.3-abc") and " yes " in rows["weekly"]
    assert schedule(shell, kfp, "resume", "daily").out == "daily is on\n"
    assert schedule(shell, kfp, "delete", "daily").out == "daily is deleted\n"
    assert [one["display_name"] for one in kfp.recurring.values()] == ["weekly", "hourly"]
    assert {one["status"] for one in kfp.recurring.values()} == {"ENABLED"}


def test_a_name_is_given_once_and_must_be_there(shell: Shell, kfp: FakeKfp) -> None:
    assert schedule(shell, kfp, "create", "weekly", "--cron", "0 3 * * 1").code == 0
    again = schedule(shell, kfp, "create", "weekly", "--cron", "0 4 * * 1")
    assert again.code == 2 and "error: weekly: a schedule of this name exists" in again.err
    assert len(kfp.recurring) == 1
    missing = schedule(shell, kfp, "pause", "monthly")
    assert missing.code == 2 and "error: monthly: no such schedule (there are: weekly)" in missing.err


def test_a_multi_user_server_is_told_the_namespace(shell: Shell, kfp: FakeKfp) -> None:
    kfp.multi_user = True
    assert schedule(shell, kfp, "create", "weekly", "--cron", "0 3 * * 1").code == 0
    assert [one["namespace"] for one in kfp.recurring.values()] == ["deepsynth"]
    assert "weekly" in schedule(shell, kfp, "list").out


@pytest.mark.parametrize(
    ("cron", "zone", "expected"),
    [
        ("0 3 * * 1", "UTC", "0 0 3 * * 1"),
        ("0 3 * * 5-7", "UTC", "0 0 3 * * 0,5,6"),  # KFP's Sunday is 0 only
        ("*/20 9-10 * jan MON", "UTC", "0 0,20,40 9,10 * 1 1"),
        ("0 3 13 * 5", "UTC", "0 0 3 13 * 5"),
        ("0 3 * * 1", "Europe/Berlin", "0 0 2 * * 1"),
        ("30 0 * * mon-fri", "Europe/Berlin", "0 30 23 * * 0,1,2,3,4"),  # the day before
        ("0 22 * * 6", "America/New_York", "0 0 3 * * 0"),  # the day after
        ("15 */6 * * *", "Asia/Kolkata", "0 45 0,6,12,18 * * *"),
        ("0 3 1 * *", "Europe/Berlin", "0 0 2 1 * *"),
        ("* * * * *", "Asia/Kolkata", "0 * * * * *"),
    ],
)
def test_five_fields_in_a_zone_are_six_in_the_schedulers(cron: str, zone: str, expected: str) -> None:
    times = cron_times(cron, zone, "UTC", NOW)
    assert times.kfp == expected
    check_robfig_cron(times.kfp)


def test_the_change_of_clocks_is_found() -> None:
    changes = cron_times("0 3 * * *", "Europe/Berlin", "UTC", NOW).changes_clocks
    assert changes is not None and (changes.year, changes.month, changes.day) == (2027, 3, 28)
    assert cron_times("0 3 * * *", "Asia/Kolkata", "UTC", NOW).changes_clocks is None
    assert cron_times("0 3 * * *", "Europe/Berlin", "Europe/Paris", NOW).changes_clocks is None


def test_the_next_times_are_in_the_schedulers_zone() -> None:
    first, second = cron_times("0 3 * * 1", "Europe/Berlin", "UTC", NOW).next(2, NOW)
    assert first.isoformat() == "2026-11-30T02:00:00+00:00" and second.isoformat() == "2026-12-07T02:00:00+00:00"


@pytest.mark.parametrize(
    ("cron", "zone", "said"),
    [
        ("0 0 3 * * 1", "UTC", "has 6 fields, not five"),
        ("61 3 * * *", "UTC", "not a cron expression (Bad minute)"),
        ("0 3 31 2 *", "UTC", "not a cron expression"),
        ("0 3 * * 5#2", "UTC", "nor the n-th (#) day"),
        ("0 3 L * *", "UTC", "the last (L)"),
        ("0 3 */2 * 5", "UTC", "cannot be combined"),
        ("0 3 * * 1", "Mars/Phobos", "--timezone Mars/Phobos: no such time zone"),
        # Midnight on the first of a month is the last day of the previous month in UTC.
        ("0 0 1 * *", "Europe/Berlin", "are not one cron expression in UTC"),
        ("*/7 3 * * *", "Asia/Kolkata", "are not one cron expression in UTC"),
        ("0 0,12 * * 1", "Europe/Berlin", "are not one cron expression in UTC"),
    ],
)
def test_what_kfp_cannot_read_is_refused(cron: str, zone: str, said: str) -> None:
    with pytest.raises(UserError) as refused:
        cron_times(cron, zone, "UTC", NOW)
    assert said in str(refused.value)


@pytest.mark.parametrize("cron", ["0 3 * * 1", "CRON_TZ=Europe/Berlin 0 0 3 * * 1", "0 0 3 * * 7", "0 60 3 * * 1"])
def test_the_server_of_these_tests_refuses_what_kfp_refuses(cron: str) -> None:
    with pytest.raises(RefusedError):
        check_robfig_cron(cron)
