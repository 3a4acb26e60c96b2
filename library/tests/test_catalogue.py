"""The catalogue: complete, honest about what it was told, and a page that holds together."""

import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser

import morning
import msgspec
import numpy as np
import onnx.parser
import polars as pl
import pytest
from conftest import after_loading
from stores import environment

from notebento.core.config import ColumnContract, Config, Node, TableContract
from notebento.core.errors import UserError
from notebento.evaluation.ablation import ablation, importance, mean_loss, targets, without_views
from notebento.evaluation.bootstrap import Resamples
from notebento.features.expectations import Expectation, Watch, expectations, too_old, unexpected
from notebento.features.schema import FeatureSet, Field
from notebento.features.views import Events, Table, Value, View, count, maximum, mean, share, since, total
from notebento.models.bundle import Graph, Signature
from notebento.registry.catalogue import entries, features_page, gather, grouped, newest

NOON = datetime(2013, 7, 4, 12, tzinfo=UTC)
CONTRACTS = {"weather": TableContract(columns={"temp": ColumnContract(min=-40, max=130)})}


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
    features.derive("airport", pl.col("airport"), categorical=True, text="where")
    features.derive("frost", pl.col("w_top_1h") - pl.col("w_temp_1h"), "°F", "above the mean")
    return features


def test_what_is_expected_follows_from_definitions_and_contracts():
    found = expectations(small(), CONTRACTS)
    assert found["w_cold_1h"] == Expectation(low=0, high=1)
    assert found["w_n_1h"] == found["w_ago"] == Expectation(low=0)
    assert found["w_temp_1h"] == found["w_top_1h"] == Expectation(low=-40, high=130)  # as the contract says of temp
    assert found["w_sum_1h"] == found["w_twice_1h"] == found["frost"] == Expectation()


def test_what_somebody_expects_counts_more():
    features = small()
    features.expected = {"w_t*": {"high": 99.0}, "frost": {"low": 0.0, "nulls": 0.5}}
    found = expectations(features, CONTRACTS, {"rows": 100, "numeric": {"w_temp_1h": {"nulls": 20}}, "categorical": {}})
    assert found["w_temp_1h"] == Expectation(low=-40, high=99, nulls=pytest.approx(0.3))
    assert found["w_twice_1h"] == Expectation(high=99)
    assert found["frost"] == Expectation(low=0, nulls=0.5)
    features.expected = {"frosty": {"low": 0.0}}
    with pytest.raises(UserError, match="expected of 'frosty', which is not a feature. Did you mean 'frost'?"):
        expectations(features, CONTRACTS)
    features.expected = {"frost": {"lowest": 0.0}}
    with pytest.raises(UserError, match=r"expected\.frost"):
        expectations(features, CONTRACTS)


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
    assert too_old(small(), {"weather": NOON - timedelta(hours=3)}, NOON) == {}
    assert "older than 3h" in too_old(small(), {"weather": NOON - timedelta(hours=3, seconds=1)}, NOON)["weather"]
    times = [NOON - timedelta(hours=2), NOON - timedelta(hours=1), NOON + timedelta(hours=1)]
    seen = newest(small(), {"weather": pl.DataFrame({"time": times})}, NOON)
    assert seen == {"weather": times[1]}  # what comes later does not count
    assert newest(small(), {}, NOON) == {}
    assert too_old(small(), {}, NOON) == {"weather": "nothing has come yet"}


TOY = """
<ir_version: 10, opset_import: ["" : 18]>
toy (float[n, 2] numeric, string[n, 1] categorical) => (float[n] answer)
<int64[1] axes = {1}, float[2] weights = {1.0, 0.0}> {
    weighted = Mul (numeric, weights)
    sum = ReduceSum <keepdims = 0> (weighted, axes)
    answer = Sigmoid (sum)
}"""


def test_a_column_that_matters_is_found():
    schema = Signature(task="binary", target="late", numeric=("delay", "noise"), categorical=("carrier",))
    graph, rng = Graph(onnx.parser.parse_model(TOY).SerializeToString(), schema), np.random.default_rng(0)
    rows = pl.DataFrame({"delay": rng.normal(0, 3, 500), "noise": rng.normal(size=500), "carrier": ["UA"] * 500})
    target = (rng.random(500) < graph.predict(rows)).astype(int)
    found = importance(graph, rows, target)
    assert found["delay"] > 0.1
    assert found["noise"] == found["carrier"] == 0  # the graph does not read them


def test_losses_of_every_task():
    binary, several, number = (
        Signature(task=task, target="y", numeric=(), categorical=(), classes=classes)
        for task, classes in (("binary", (False, True)), ("multiclass", ("a", "b", "c")), ("regression", None))
    )
    assert mean_loss(binary, np.array([1, 0]), np.array([0.5, 0.5])) == pytest.approx(np.log(2))
    assert mean_loss(several, np.array([2]), np.array([[0.25, 0.25, 0.5]])) == pytest.approx(np.log(2))
    sure = mean_loss(binary, np.array([1, 0]), np.array([0.0, 1.0], np.float32))
    assert sure == pytest.approx(-np.log(1e-7))  # a float32 that is sure of it is not infinitely wrong
    assert mean_loss(number, np.array([3.0, 0.0]), np.array([1.0, 0.0])) == 2
    assert targets(binary, pl.DataFrame({"y": [True, False]})).tolist() == [1, 0]
    assert targets(several, pl.DataFrame({"y": ["c", "a"]})).tolist() == [2, 0]


def test_entries_say_where_features_come_from():
    found = {e.feature: e for e in entries(small(), expectations(small(), CONTRACTS))}
    assert {*found} == {*small().shown}
    assert all(e.what for e in found.values())
    seen = found["w_temp_1h"]
    assert (seen.how, seen.table, seen.entity, seen.unit) == ("looked up", "weather", ("airport",), "°F")
    assert seen.expected == Expectation(low=-40, high=130)
    assert (found["airport"].how, found["airport"].kind) == ("from the record", "category")
    frost = found["frost"]
    assert (frost.how, frost.uses) == ("derived", ("w_top_1h", "w_temp_1h"))
    assert (frost.table, frost.owner, frost.fresh) == ("weather", "the weather service", "3h")


def test_entries_say_what_data_and_versions_say():
    table = pl.DataFrame({"w_temp_1h": [*range(99), None], "airport": ["JFK"] * 60 + ["LGA"] * 40})
    used = {"v-1": ["w_temp_1h"], "v-2": ["w_temp_1h", "airport"]}
    found = {e.feature: e for e in entries(small(), {}, table, {"airport": 0.5}, used)}
    assert found["w_temp_1h"].nulls == 0.01
    assert sum(found["w_temp_1h"].counts) == 97
    assert found["w_temp_1h"].edges == (1, 97)  # the 1st and the 99th percentile
    assert found["airport"].values == {"JFK": 60, "LGA": 40}
    assert (found["airport"].importance, found["frost"].importance) == (0.5, None)
    assert [found[name].versions for name in ("w_temp_1h", "airport", "frost")] == [("v-1", "v-2"), ("v-2",), ()]


def test_without_a_view_everything_that_rests_on_it_goes():
    lost = without_views(small(), ["w_n_1h", "w_temp_1h", "frost", "airport"])
    assert lost == {"w": ["w_n_1h", "w_temp_1h", "frost"]}
    features = small()
    (view,) = features.views
    features.add(View(view.events, (), {"all": count()}, ("1h",), name="everywhere"))
    features.add(View(view.events, (), {"ever": count()}, ("ever",), name="unused"))
    columns = ["w_n_1h", "everywhere_all_1h", "airport"]
    assert without_views(features, columns) == {"w": ["w_n_1h"], "everywhere": ["everywhere_all_1h"]}


def test_ablation_finds_the_view_that_matters_and_its_interval():
    rng = np.random.default_rng(0)
    rows = pl.DataFrame({"signal": rng.normal(size=3000), "noise": rng.normal(size=3000)})
    rows = rows.with_columns(
        kind=pl.when(pl.col("signal") > 0).then(pl.lit("a")).otherwise(pl.lit("b")),
        y=pl.col("signal") + pl.lit(rng.normal(size=3000)) > 0,
    )
    groups = {"signal": ["signal", "kind"], "noise": ["noise"]}
    how, watched = Resamples(100, seed=1, units=np.arange(1500) // 50), []

    def watch(names):
        watched.extend(names)
        return names

    found = ablation(rows[:1500], rows[1500:], "y", ["signal", "kind", "noise"], groups, how, rounds=10, watch=watch)
    assert watched == ["signal", "noise"]
    assert found["without"].to_list()[0] == "signal"
    by = {row["without"]: row for row in found.iter_rows(named=True)}
    assert by["signal"]["columns"] == 1 and by["signal"]["auc"] < 0.6 < by["(nothing)"]["auc"]
    assert by["signal"]["lost"] == pytest.approx(by["(nothing)"]["auc"] - by["signal"]["auc"])
    assert by["signal"]["low"] > 0.1
    assert by["noise"]["low"] < 0 < by["noise"]["high"] or abs(by["noise"]["lost"]) < 0.02
    assert (by["(nothing)"]["lost"], by["(nothing)"]["low"]) == (0, None)


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
    names = ["w_top_1h", "airport", "w_temp_1h"]
    table = pl.DataFrame({names[0]: rng.normal(size=99), names[1]: ["<b>&"] * 99, names[2]: [None] * 99})
    expected = expectations(small(), CONTRACTS)
    listed = entries(small(), expected, table, {"w_top_1h": 0.01, "airport": -0.1}, {"v-1": names})
    wrong = unexpected(table.with_columns(w_temp_1h=pl.lit(999.0)), expected)
    shown = Page(features_page(listed, "A <title>", "about", wrong))
    assert shown.open == []
    assert shown.links == []  # one file, that asks nobody for anything
    assert all(name in shown.text for name in small().shown)
    assert "A <title>" in shown.text
    assert "above 130: 99 rows, 100.00%" in shown.text
    assert shown.text.index("w_top_1h") < shown.text.index("w_n_1h")  # what matters most comes first


def test_features_are_grouped_by_view_and_the_most_important_group_comes_first():
    listed = entries(small(), {}, None, {"frost": 0.01, "w_temp_1h": 0.02})
    groups = grouped(listed)
    assert [(group.name, len(group.entries)) for group in groups] == [("w", 7), ("derived", 1), ("from the record", 1)]
    assert groups[0].entries[0].feature == "w_temp_1h" and groups[0].about == "weather, by airport"
    text = features_page(listed, "Features")
    assert text.count('<details class="group">') == 3 and "9 features in 3 groups" in text  # all of them closed


def test_a_feature_called_like_an_element_is_text():
    listed = [msgspec.structs.replace(e, feature="<script>", view="<script>") for e in entries(small(), {})]
    page, script = features_page(listed, "Features").split("</main>")
    assert "<script>" not in page and "<code>&lt;script&gt;</code>" in page and script.count("<script>") == 1


@pytest.mark.server
def test_the_page_finds_features(tmp_path):
    """Its script runs, although its policy forbids scripts, and shows what holds every word."""
    (tmp_path / "page.html").write_text(features_page(entries(small(), {}), "Features"))
    (tmp_path / "frame.html").write_text("""<iframe src="page.html" width="360"></iframe><p></p><script>
        onload = () => {
            const page = document.querySelector("iframe").contentDocument, find = page.querySelector("input")
            find.value = "TEMP mean"; find.dispatchEvent(new Event("input"))
            const found = page.querySelectorAll("details[open] article:not([hidden]) h3 code")
            const texts = [...found].map(code => code.textContent)
            texts.push([...page.querySelectorAll(".group")].filter(g => g.hidden).length + " hidden")
            texts.push(page.documentElement.scrollWidth > 360 ? "scrolls" : "fits")
            document.querySelector("p").textContent = texts.join(" ") }</script>""")
    assert re.findall("<p>(.*)</p>", after_loading(tmp_path / "frame.html")) == ["w_temp_1h frost 1 hidden fits"]


def test_before_there_is_any_run_the_definitions_are_all_there_is(tmp_path, monkeypatch):
    monkeypatch.setenv("NOTEBENTO_RUNS", str(tmp_path / "runs"))
    config = Config(features=Node({"_target_": "morning.Morning"}))
    found = gather(config, None)
    assert {e.feature for e in found.entries} == {*morning.views.shown}
    assert (found.wrong, found.rows, found.about) == ([], 0, "From the definitions.")


@pytest.mark.process
def test_the_page_never_takes_the_place_of_a_folder(tmp_path):
    home = morning.project(tmp_path / "home")
    (tmp_path / "a.txt").write_text("a")
    command = [sys.executable, "-m", "notebento", "features", "list", "--html", str(tmp_path)]
    variables = environment(NOTEBENTO_HOME=str(home), NOTEBENTO_RUNS=str(tmp_path / "runs"))
    done = subprocess.run(command, env=variables, cwd=home, capture_output=True, text=True)
    assert (done.returncode, "--html" in done.stderr) == (2, True), done.stderr
    assert (tmp_path / "a.txt").read_text() == "a"
