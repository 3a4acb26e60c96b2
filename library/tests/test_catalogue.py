"""The catalogue: complete, honest about what it was told, and a page that holds together."""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest
from conftest import after_loading
from flights.features import flights
from test_lookup import NOON, toy_graph
from test_lookup import toy as toy  # a fixture

from notebento.core.compose import compose
from notebento.core.errors import UserError
from notebento.data.snapshot import contracts_of
from notebento.evaluation.ablation import importance, loss, targets, without_views
from notebento.features.expectations import Expectation, Watch, expectations, too_old, unexpected
from notebento.features.schema import FeatureSet, Field
from notebento.features.views import Events, Table, Value, View, count, maximum, mean, share, since, total
from notebento.models.bundle import Signature
from notebento.registry.catalogue import entries, features_page, newest


def small() -> FeatureSet:
    """Temperatures at an airport."""
    table = Table("weather", key=("time",), known=pl.col("time"), owner="the weather service", fresh="3h")
    values = {
        "temp": Value(pl.col("temp"), "°F"),
        "twice": Value(pl.col("temp") * 2),
        "cold": Value(pl.col("temp") < 32),
    }
    seen = Events("observations", table, pl.col("time"), pl.col("time"), values)
    features = FeatureSet({"airport": Field("string")})
    give = {"n": count(), "temp": mean("temp"), "top": maximum("temp"), "sum": total("temp"), "twice": mean("twice")}
    features.add(View(seen, ("airport",), give | {"cold": share("cold"), "ago": since()}, ("1h",), name="w"))
    features.derive("frost", pl.col("w_top_1h") - pl.col("w_temp_1h"), "°F", "above the mean")
    return features


def contracts():
    return contracts_of(compose().data)


def test_what_is_expected_follows_from_definitions_and_contracts():
    found = expectations(small(), contracts())
    assert found["w_cold_1h"] == Expectation(low=0, high=1)
    assert found["w_n_1h"] == found["w_ago"] == Expectation(low=0)
    assert found["w_temp_1h"] == found["w_top_1h"] == Expectation(low=-40, high=130)  # as the contract says of temp
    assert found["w_sum_1h"] == found["w_twice_1h"] == found["frost"] == Expectation()


def test_what_somebody_expects_counts_more():
    features = small()
    features.expected = {"w_t*": {"high": 99.0}, "frost": {"low": 0.0, "nulls": 0.5}}
    found = expectations(
        features, contracts(), {"rows": 100, "numeric": {"w_temp_1h": {"nulls": 20}}, "categorical": {}}
    )
    assert found["w_temp_1h"] == Expectation(low=-40, high=99, nulls=pytest.approx(0.3))
    assert found["w_twice_1h"] == Expectation(high=99)
    assert found["frost"] == Expectation(low=0, nulls=0.5)
    features.expected = {"frosty": {"low": 0.0}}
    with pytest.raises(UserError, match="expected of 'frosty', which is no feature. Did you mean 'frost'?"):
        expectations(features, contracts())
    features.expected = {"frost": {"lowest": 0.0}}
    with pytest.raises(UserError, match=r"expected\.frost"):
        expectations(features, contracts())


def test_every_limit_can_be_broken_and_only_where_it_is():
    expected = {"a": Expectation(low=0, high=1, nulls=0.25)}
    assert unexpected(pl.DataFrame({"a": [0.0, 1.0, 0.5, None], "b": [9, 9, 9, 9]}), expected) == []
    found = unexpected(pl.DataFrame({"a": [-1.0, 1.5, None, None, 2.0]}), expected)
    assert [(u.what, u.rows) for u in found] == [("null in more than 25.0%", 2), ("below 0", 1), ("above 1", 2)]
    assert unexpected(pl.DataFrame({"a": []}, schema={"a": pl.Float32}), expected) == []


def test_online_counts_what_offline_finds():
    rng, expected = np.random.default_rng(0), {"a": Expectation(low=0, high=1), "b": Expectation(high=0)}
    values = np.where(rng.random((200, 2)) < 0.2, np.nan, rng.normal(size=(200, 2))).astype(np.float32)
    watch = Watch(("a", "b"), expected)
    for part in np.array_split(values, 7):
        watch(part)
    nulls, outside = watch.take()
    table = pl.DataFrame(values, ["a", "b"]).with_columns(pl.all().fill_nan(None))
    assert nulls == {name: table[name].null_count() for name in ("a", "b")}
    found = unexpected(table, expected)
    assert outside == {n: sum(u.rows for u in found if u.feature == n) for n in ("a", "b")}
    assert watch.take() == ({}, {})


def test_a_table_that_stopped_is_named():
    from datetime import timedelta

    assert too_old(small(), {"weather": NOON - timedelta(hours=3)}, NOON) == {}
    assert "older than 3h" in too_old(small(), {"weather": NOON - timedelta(hours=3, seconds=1)}, NOON)["weather"]
    times = [NOON - timedelta(hours=2), NOON - timedelta(hours=1), NOON + timedelta(hours=1)]
    seen = newest(small(), {"weather": pl.DataFrame({"time": times})}, NOON)
    assert seen == {"weather": times[1]}  # what comes later does not count
    assert newest(small(), {}, NOON) == {}
    assert too_old(small(), {}, NOON) == {"weather": "nothing has come yet"}


def test_a_column_that_matters_is_found(toy):
    graph, rng = toy_graph(), np.random.default_rng(0)
    rows = pl.DataFrame({"seen_delay_2h": rng.normal(0, 300, 500), "worse": np.zeros(500), "carrier": ["UA"] * 500})
    target = (rng.random(500) < graph.predict(rows)).astype(int)
    found = importance(graph, rows, target)
    assert found["seen_delay_2h"] > 0.1
    assert found["worse"] == found["carrier"] == 0  # the same in every row


def test_losses_of_every_task():
    binary, several, number = (
        Signature(task=task, target="y", numeric=(), categorical=(), classes=classes)
        for task, classes in (("binary", (False, True)), ("multiclass", ("a", "b", "c")), ("regression", None))
    )
    assert loss(binary, np.array([1, 0]), np.array([0.5, 0.5])) == pytest.approx(np.log(2))
    assert loss(several, np.array([2]), np.array([[0.25, 0.25, 0.5]])) == pytest.approx(np.log(2))
    assert loss(number, np.array([3.0, 0.0]), np.array([1.0, 0.0])) == 2
    assert targets(binary, pl.DataFrame({"y": [True, False]})).tolist() == [1, 0]
    assert targets(several, pl.DataFrame({"y": ["c", "a"]})).tolist() == [2, 0]


def test_entries_say_where_features_come_from():
    found = {e.feature: e for e in entries(flights, expectations(flights, contracts()))}
    assert {*found} == {*flights.shown}
    assert all(e.what for e in found.values())
    arrivals = found["arrivals_carrier_delay_24h"]
    assert (arrivals.how, arrivals.table, arrivals.entity) == ("looked up", "flights", ("carrier",))
    assert found["weekday"].how == "from the record"
    assert found["leg_room"].how == "derived"
    assert found["leg_room"].owner == arrivals.owner != ""
    frost = {e.feature: e for e in entries(small(), {})}["frost"]
    assert (frost.table, frost.owner, frost.fresh) == ("weather", "the weather service", "3h")


def test_without_a_view_everything_that_rests_on_it_goes():
    lost = without_views(small(), ["w_n_1h", "w_temp_1h", "frost", "airport"])
    assert lost == {"w": ["w_n_1h", "w_temp_1h", "frost"]}
    every = [name for name in flights.shown if name not in flights.immediate]
    groups = without_views(flights, every)
    assert {name for names in groups.values() for name in names} == {*every}


class Page(HTMLParser):
    """What stands on a page, and whether every tag is closed."""

    VOID = ("meta", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text, self.links = "", list[str]()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.links += [value for name, value in attributes if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.links += [value for name, value in attributes if name in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_holds_everything_and_nothing_foreign():
    rng = np.random.default_rng(0)
    names = ["leg_gap", "carrier", "weather_temp"]
    table = pl.DataFrame({names[0]: rng.normal(size=99), names[1]: ["<b>&"] * 99, names[2]: [None] * 99})
    listed = entries(
        flights, expectations(flights, contracts()), table, {"leg_gap": 0.01, "carrier": -0.1}, {"v-1": names}
    )
    wrong = unexpected(table.with_columns(weather_temp=pl.lit(999.0)), expectations(flights, contracts()))
    shown = Page(features_page(listed, "A <title>", "about", wrong))
    assert shown.open == []
    assert shown.links == []  # one file, that asks nobody for anything
    assert all(name in shown.text for name in flights.shown)
    assert "A <title>" in shown.text
    assert "above 130: 99 rows, 100.00%" in shown.text
    assert shown.text.index("leg_gap") < shown.text.index("leg_slack")  # what matters most comes first


@pytest.mark.server
def test_the_page_finds_features(tmp_path):
    """Its script runs, although its policy forbids scripts, and shows what holds every word."""
    (tmp_path / "page.html").write_text(features_page(entries(small(), {}), "Features"))
    (tmp_path / "frame.html").write_text("""<iframe src="page.html"></iframe><p></p><script>
        onload = () => {
            const page = document.querySelector("iframe").contentDocument, find = page.querySelector("input")
            find.value = "TEMP mean"; find.dispatchEvent(new Event("input"))
            const found = page.querySelectorAll("article:not([hidden]) h3 code")
            document.querySelector("p").textContent = [...found].map(code => code.textContent).join(" ") }</script>""")
    assert re.findall("<p>(.*)</p>", after_loading(tmp_path / "frame.html")) == ["w_temp_1h frost"]


@pytest.mark.process
def test_the_command_writes_a_page_before_there_is_any_run(tmp_path):
    environment = os.environ | {"NOTEBENTO_RUNS": str(tmp_path / "runs")}
    command = [
        sys.executable,
        "-m",
        "notebento",
        "features",
        "list",
        "--json",
        "--html",
        str(tmp_path / "deep" / "page.html"),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {e["feature"] for e in json.loads(done.stdout)["entries"]} == {*flights.shown}
    assert "weather_temp" in (tmp_path / "deep" / "page.html").read_text()
    for words in (["ablation"], ["list", "--check"]):
        command = [sys.executable, "-m", "notebento", "features", *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert (done.returncode, "there is no run" in done.stderr) == (2, True)


@pytest.mark.process
def test_the_page_never_takes_the_place_of_a_folder(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    command = [sys.executable, "-m", "notebento", "features", "list", "--html", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, "--html" in done.stderr) == (2, True)
    assert (tmp_path / "a.txt").read_text() == "a"
