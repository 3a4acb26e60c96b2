"""A morning of flights: what happened as messages, three views, a store, and a project whose features these are."""

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import polars as pl
from stores import settings_of

from notebento.core.config import ColumnContract, StoreConfig, TableContract
from notebento.features.schema import TEXT, FeatureSet, Options
from notebento.features.views import Events, Table, Value, View, count, last, maximum, mean, share
from notebento.online.store import FeatureStore

DAWN = datetime(2013, 1, 15, 7, tzinfo=UTC)
TIME = pl.Datetime("us", "UTC")
COLUMNS: dict = dict.fromkeys(["carrier", "origin"], pl.String())
COLUMNS |= dict.fromkeys(["sched_dep", "departed", "arrived"], TIME)
COLUMNS |= dict.fromkeys(["flight", "dep_delay", "arr_delay"], pl.Int64())
CONTRACTS = {
    "flights": TableContract(
        ("carrier", "flight", "sched_dep"),
        {"origin": ColumnContract(allowed=("EWR", "JFK", "LGA"))},
        {"departure": "departed IS NULL OR dep_delay IS NOT NULL"},
    )
}

sched, departed, arrived = pl.col("sched_dep"), pl.col("departed"), pl.col("arrived")
filled = {"departed": departed, "dep_delay": departed, "arrived": arrived, "arr_delay": arrived}
table = Table("flights", ("carrier", "flight", "sched_dep"), sched - timedelta(days=1), later=filled)
left = Events("departures", table, departed, departed, {"delay": Value(pl.col("dep_delay"), "min")})
landed = Events("arrivals", table, arrived, arrived, {"delay": Value(pl.col("arr_delay"), "min")})
held = sched + timedelta(minutes=15)  # that a flight has not left is known then, without a message
waits = Events("waits", table, held, held, {"late": Value(departed.is_null() | (departed >= held))})

views = FeatureSet({"carrier": TEXT, "origin": TEXT})
recent = {"n": count(), "delay": mean("delay"), "last": last("delay")}
views.add(View(left, ("origin",), recent, ("1h", "4h"), expiry="3h"))
views.add(View(landed, ("carrier",), {"n": count(), "delay": mean("delay"), "most": maximum("delay")}, ("2h",)))
views.add(View(waits, ("origin",), {"late": share("late")}, ("4h",)))


class Morning(Options, frozen=True):
    """The maker of these features."""

    features = views


def project(folder: Path) -> Path:
    """A project of its own: `NOTEBENTO_HOME` for commands."""
    (folder / "conf").mkdir(parents=True, exist_ok=True)
    contract = msgspec.to_builtins(CONTRACTS)
    config = {
        "defaults": ["notebento", "_self_"],
        "project": {"name": "morning"},
        "features": {"_target_": "morning.Morning"},
        "data": {"table": "flights", "contract": contract},
    }
    (folder / "conf" / "config.yaml").write_bytes(msgspec.yaml.encode(config))
    return folder


def story(n: int, seed: int = 0) -> list[dict]:
    """Messages about `n` flights of a morning: before they leave, when they left, when they landed; not in order."""
    rng, messages = random.Random(seed), []
    for i in range(n):
        due = DAWN + timedelta(minutes=rng.randrange(5, 240))
        gone = due + timedelta(minutes=rng.randrange(-5, 60))
        row = {"carrier": rng.choice(["AA", "DL"]), "flight": i + 1, "origin": rng.choice(["JFK", "EWR"])}
        row |= {"sched_dep": due, "departed": None, "dep_delay": None, "arrived": None, "arr_delay": None}
        leaves = {"departed": gone, "dep_delay": (gone - due) // timedelta(minutes=1)}
        there = gone + timedelta(minutes=70)
        lands = {"arrived": there, "arr_delay": (there - due - timedelta(minutes=75)) // timedelta(minutes=1)}
        moments = [(DAWN, row), (gone, row | leaves), (there, row | leaves | lands)]
        messages += [{"table": "flights", "row": r, "at": at} for at, r in moments[: rng.choice([2, 3, 3])]]
    messages.sort(key=lambda message: message["at"])
    for _ in range(n // 4):  # some come late, some twice
        i, j = rng.randrange(len(messages)), rng.randrange(len(messages))
        messages.insert(j, messages[i])
    return [*messages, {"at": DAWN + timedelta(hours=6)}]


def write(file: Path, messages: list[dict]) -> None:
    file.write_bytes(b"".join(msgspec.json.encode(message) + b"\n" for message in messages))


def settings(folder: Path, name: str = "store") -> StoreConfig:
    config = settings_of(folder, retry_s=5.0)
    return msgspec.structs.replace(config, url=str(folder / f"{name}.db"), name=name)


def opened(config: StoreConfig) -> FeatureStore:
    """A store that is filled as of dawn, when nothing was known."""
    store = FeatureStore.open(views, config)
    store.materialize({"flights": pl.DataFrame(schema=COLUMNS)}, DAWN)
    return store


def answers(store: FeatureStore) -> list[list]:
    """What the store says at several times of the day."""
    records = [
        {"carrier": carrier, "origin": origin, "predict_at": DAWN + timedelta(hours=hours)}
        for carrier, origin in [("AA", "JFK"), ("DL", "EWR"), ("DL", "JFK")]
        for hours in (1, 2, 3, 4, 6)
    ]
    return [list(row.values()) for row in store.read(records).rows]
