"""Convert a schedule's five cron fields, in the user's time zone, to the six fields that KFP reads.

KFP 2.17 parses with robfig/cron 1.2.0: seconds come first, Sunday is 0 and never 7, and there is no ``CRON_TZ=`` (its
issue 148: versions 2 and 3 only). All schedules use the scheduler's zone: ``CRON_SCHEDULE_TIMEZONE`` of the
Deployment ml-pipeline-scheduledworkflow, UTC by default. Times of other zones are converted to it here.
"""

import datetime
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from components.shared.errors import UserError

_WEEK = range(7)
_MINUTES, _HOURS, _DAYS, _MONTHS = range(60), range(24), range(1, 32), range(1, 13)
_DAY_MINUTES = 24 * 60


@dataclass(frozen=True)
class CronTimes:
    """When a schedule starts runs.

    Attributes:
        kfp: six fields, seconds first, in the scheduler's zone.
        changes_clocks: when the difference between the two zones next changes, e.g. for daylight saving: from then on
            runs start at another time on the user's clock. None if it does not change within a year.
    """

    kfp: str
    scheduler_zone: str
    changes_clocks: datetime.datetime | None

    def next(self, count: int, now: datetime.datetime | None = None) -> list[datetime.datetime]:
        """Return the next ``count`` times after ``now``, in the scheduler's zone."""
        return list(islice(_fires(self.kfp.split(maxsplit=1)[1], self.scheduler_zone, now), count))


def cron_times(cron: str, zone: str, scheduler_zone: str, now: datetime.datetime | None = None) -> CronTimes:
    """Read five cron fields (minute, hour, day of the month, month, day of the week), given in ``zone``.

    Raises:
        UserError: not a cron expression or a zone, or the scheduler's zone cannot express its times.
    """
    fields = _checked(cron)
    moment = now or datetime.datetime.now(datetime.UTC)
    own, scheduler = _zone(zone), _zone(scheduler_zone)
    minutes_later = _difference(own, scheduler, moment)
    moved = fields if minutes_later == 0 else _moved(fields, -minutes_later, cron, zone, scheduler_zone)
    return CronTimes(moved.kfp(), scheduler_zone, _next_change(own, scheduler, moment))


def next_time(kfp_cron: str, scheduler_zone: str) -> datetime.datetime | None:
    """Return the next time of six fields that KFP holds; None if CronSim cannot read them."""
    try:
        return next(_fires(kfp_cron.replace("?", "*").split(maxsplit=1)[1], scheduler_zone, None), None)
    except (CronSimError, IndexError):
        return None


@dataclass(frozen=True)
class _Fields:
    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]

    def kfp(self) -> str:
        named = [
            (self.minutes, _MINUTES), (self.hours, _HOURS), (self.days, _DAYS), (self.months, _MONTHS),
            (self.weekdays, _WEEK),
        ]  # fmt: skip
        return " ".join(["0", *(_field(values, whole) for values, whole in named)])


def _field(values: frozenset[int], whole: range) -> str:
    # A star, not a list of all values: cron combines days of the month and of the week with "or" if neither is a star.
    return "*" if values == frozenset(whole) else ",".join(str(value) for value in sorted(values))


def _checked(cron: str) -> _Fields:
    where, mend = f"--cron {cron!r}", "give minute, hour, day, month and day of the week, e.g. '0 3 * * 1' for Mondays"
    if len(cron.split()) != 5:
        problem = f"has {len(cron.split())} fields, not five (this command adds seconds and the zone)"
        raise UserError(problem, where=where, mend=mend)
    if "#" in cron or "L" in cron.upper().split()[2] or "L" in cron.upper().split()[4]:
        raise UserError("KFP supports neither the last (L) nor the n-th (#) day", where=where, mend=mend)
    try:
        parsed = CronSim(cron, datetime.datetime.now(datetime.UTC))
    except CronSimError as error:
        raise UserError(f"not a cron expression ({error})", where=where, mend=mend) from error
    sets = (parsed.minutes, parsed.hours, parsed.days, parsed.months, parsed.weekdays)
    minutes, hours, days, months, weekdays = (frozenset(int(value) for value in one) for one in sets)  # type: ignore[arg-type]
    fields = _Fields(minutes, hours, days, months, frozenset(day % 7 for day in weekdays))
    if parsed.day_and and days < frozenset(_DAYS) and fields.weekdays < frozenset(_WEEK):
        raise UserError("a step of days cannot be combined with days of the week", where=where, mend=mend)
    return fields


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        mend = "give a name such as Europe/Berlin, America/New_York or UTC"
        raise UserError("no such time zone", where=f"--timezone {name}", mend=mend) from error


def _difference(own: ZoneInfo, scheduler: ZoneInfo, moment: datetime.datetime) -> int:
    """Return how many minutes the clock of ``own`` is ahead of the scheduler's."""
    ahead = _offset(own, moment) - _offset(scheduler, moment)
    return int(ahead.total_seconds() // 60)


def _offset(zone: ZoneInfo, moment: datetime.datetime) -> datetime.timedelta:
    return moment.astimezone(zone).utcoffset() or datetime.timedelta()


def _moved(fields: _Fields, minutes: int, cron: str, zone: str, scheduler_zone: str) -> _Fields:
    """Return the fields shifted by ``minutes``, which may be negative."""
    moved = {divmod(hour * 60 + minute + minutes, _DAY_MINUTES) for hour in fields.hours for minute in fields.minutes}
    days = {day for day, _ in moved}
    times = {divmod(time, 60) for _, time in moved}
    new_hours, new_minutes = frozenset(hour for hour, _ in times), frozenset(minute for _, minute in times)
    dates_are_free = fields.days == frozenset(_DAYS) and fields.months == frozenset(_MONTHS)
    on_any_day = dates_are_free and fields.weekdays == frozenset(_WEEK)
    same_day = days == {0}
    one_other_day = len(days) == 1 and dates_are_free
    if len(times) != len(new_hours) * len(new_minutes) or not (same_day or one_other_day or on_any_day):
        raise UserError(
            f"these times of {zone} are not one cron expression in {scheduler_zone}, the zone of KFP's scheduler",
            where=f"--cron {cron!r}",
            mend=f"choose times that fall on one day in that zone too, or use --timezone {scheduler_zone}",
        )
    weekdays = fields.weekdays
    if len(days) == 1:
        (shift,) = days
        weekdays = frozenset((day + shift) % 7 for day in weekdays)
    return _Fields(new_minutes, new_hours, fields.days, fields.months, weekdays)


def _next_change(own: ZoneInfo, scheduler: ZoneInfo, moment: datetime.datetime) -> datetime.datetime | None:
    """Return the first whole hour within a year at which the zones' difference changes."""
    first = moment.replace(minute=0, second=0, microsecond=0)
    now = _difference(own, scheduler, first)
    hours = (first + datetime.timedelta(hours=hour) for hour in range(1, 366 * 24))
    return next((hour.astimezone(own) for hour in hours if _difference(own, scheduler, hour) != now), None)


def _fires(cron: str, zone: str, now: datetime.datetime | None) -> Iterator[datetime.datetime]:
    start = (now or datetime.datetime.now(datetime.UTC)).astimezone(ZoneInfo(zone))
    return iter(CronSim(cron, start))
