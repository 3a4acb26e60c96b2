"""Features that nobody asked for: times in their parts, text in the graph, and how it is decided which of them stay."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import networks
import numpy as np
import onnxruntime as ort
import polars as pl
import pytest

from notebento.core.config import DataConfig, TrainerConfig, build
from notebento.features.columns import Columns
from notebento.models.base import Model, Rows, load_fitted
from notebento.models.bundle import Graph, Signature, check_parity, edge_names, edge_rows, graph_differences
from notebento.models.encoding import Encoded, fit_encoded, fit_encoder
from notebento.models.forest import ExtraTrees
from notebento.models.lightgbm import LightGBM
from notebento.models.linear import Linear
from notebento.models.text import TERMS, fit_terms, fold_numbers, score
from notebento.serving.openapi import openapi
from notebento.serving.request import RequestError
from notebento.serving.responder import Responder, as_requests
from notebento.training.trainer import LightningTrainer

START = datetime(2024, 1, 1, tzinfo=UTC)
DATA = DataConfig(table="notes", key=("id",), target="good", time="written")
SMALL: dict[str, Model] = {
    "linear": Linear(),
    "lightgbm": LightGBM(num_boost_round=20),
    "trees": ExtraTrees(),
    "network": networks.TabM(width=16, k=2, bins=4, blocks=1),
}


def notes(rows: int = 400, seed: int = 0) -> pl.DataFrame:
    """Notes whose words say what they are about, at a time that says something, too."""
    rng = np.random.default_rng(seed)
    mood, hour = rng.choice(["great", "awful", "not great", "fine"], rows), np.arange(rows) * 7 % 24
    good = (np.isin(mood, ["great", "fine"]) * 2 - 1 + (hour > 12) + rng.normal(0, 0.5, rows)) > 0.4
    return pl.DataFrame(
        {
            "id": range(rows),
            "written": [START + timedelta(hours=7 * i) for i in range(rows)],
            "opened": [START + timedelta(hours=7 * i - int(h)) for i, h in enumerate(rng.integers(1, 900, rows))],
            "size": rng.normal(size=rows),
            "note": [f"Order {rng.integers(9999)}: it was {m}, on the {i}th!" for i, m in enumerate(mood)],
            "good": good,
        }
    )


def both(table: pl.DataFrame, data: DataConfig = DATA) -> tuple[dict[str, Any], pl.DataFrame]:
    """The schema and the features of a table."""
    maker, tables = Columns(), {data.table: table}
    return msgspec.to_builtins(maker.schema(tables, data)), maker.offline(tables, data)


@pytest.fixture
def trainer(tmp_path: Path) -> LightningTrainer:
    return LightningTrainer(TrainerConfig(epochs=2), seed=0, threads=1, work=tmp_path / "work")


def fitted_on(table: pl.DataFrame, model: Model, trainer: Any) -> tuple[Encoded, dict[str, Any], pl.DataFrame]:
    schema, features = both(table)
    rows = Rows.from_frame(features, schema)
    fitted = fit_encoded(model, rows[: len(rows) * 3 // 4], rows[len(rows) * 3 // 4 :], trainer)
    assert isinstance(fitted, Encoded)
    return fitted, schema, features


def graph_of(fitted: Encoded, schema: dict[str, Any]) -> Graph:
    return Graph(fitted.to_onnx().SerializeToString(), msgspec.convert(schema, Signature))


@pytest.mark.parametrize("name", SMALL)
def test_every_model_answers_in_one_graph_what_it_answers_with_text(name: str, trainer: LightningTrainer) -> None:
    fitted, schema, features = fitted_on(notes(), SMALL[name], trainer)
    graph = graph_of(fitted, schema)
    assert {choice.column for choice in fitted.choices if choice.kept} >= {"note"}
    rows = pl.concat([features.tail(80), edge_rows(features[:1], graph.schema)]).drop("good")
    expected = fitted.predict(Rows.from_frame(rows, schema))
    check_parity(graph_differences(graph, expected, rows))
    assert len(rows) == 80 + len(edge_names(graph.schema))


def test_a_saved_model_answers_with_the_same_bits(tmp_path: Path, trainer: LightningTrainer) -> None:
    fitted, schema, features = fitted_on(notes(), Linear(), trainer)
    again, twin = tmp_path / "a", tmp_path / "b"
    for folder in (again, twin):
        folder.mkdir()
    fitted.with_temperature(1.3).save(again)
    fitted_on(notes(), Linear(), trainer)[0].with_temperature(1.3).save(twin)
    files = sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert all((again / name).read_bytes() == (twin / name).read_bytes() for name in files) and len(files) > 4
    rows = Rows.from_frame(features, schema)
    assert (load_fitted(again).predict(rows) == fitted.with_temperature(1.3).predict(rows)).all()
    assert load_fitted(again).choices == fitted.choices


def test_a_request_with_text_and_time_gets_the_tables_answer(trainer: LightningTrainer) -> None:
    fitted, schema, features = fitted_on(notes(), Linear(), trainer)
    graph, maker = graph_of(fitted, schema), build(schema["features"])
    responder = Responder(graph, "v-toy", maker)
    examples = notes().select(list(schema["record"])).tail(40)
    _, records, online = as_requests(responder, examples)
    assert online is None
    answers = [answer.probability for answer in responder.answers(records)]
    assert np.abs(np.array(answers) - fitted.predict(Rows.from_frame(features.tail(40), schema))).max() < 1e-6
    described = openapi(responder)["components"]["schemas"]["Record"]
    assert "note" in described["properties"] and "'note' the words are read" in described["description"]
    with pytest.raises(RequestError, match="'written' is missing"):
        responder.reader(b'{"records": [{"opened": "2024-01-01T00:00:00Z", "size": 1, "note": "great"}]}')


def test_a_score_is_the_same_alone_and_in_any_batch_for_any_text() -> None:
    table = notes()
    schema, features = both(table)
    terms, _ = fit_terms(Rows.from_frame(features, schema), 0)
    rng, letters = np.random.default_rng(0), np.array([*"ab great awful not fine \0\n\t🙂é終ß Ω"])
    odd = ["".join(rng.choice(letters, n)) for n in rng.integers(0, 3000, 200)] + ["", " ", "great " * 9_999]
    texts = np.array(odd, object)
    alone = np.concatenate([score(terms, texts[i : i + 1]) for i in range(len(texts))])
    assert all((score(terms, texts, batch) == alone).all() for batch in (2, 17, 256))


def test_words_without_end_leave_a_small_graph() -> None:
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{w}" for w in rng.integers(0, 200_000, 60)) for _ in range(6_000)]
    schema = {"task": "binary", "target": "y", "numeric": [], "categorical": [], "text": ["t"]}
    rows = Rows.from_frame(pl.DataFrame({"t": texts, "y": rng.integers(0, 2, 6_000)}), schema)
    encoder, _ = fit_encoder(rows)
    assert len(encoder.terms["t"].terms) == TERMS
    model = SimpleNamespace(to_onnx=lambda: Linear().fit(encoder(rows[:200]), rows, None).to_onnx())
    graph = Encoded.to_onnx(SimpleNamespace(model=model, encoder=encoder))  # type: ignore[arg-type]
    assert graph.ByteSize() < 2_000_000
    assert ort.InferenceSession(graph.SerializeToString()).get_inputs()[0].name == "text"


def test_no_score_of_a_training_row_has_seen_its_label() -> None:
    rng = np.random.default_rng(0)
    texts = [f"word{rng.integers(300)} word{rng.integers(300)}" for _ in range(900)]
    schema = {"task": "binary", "target": "y", "numeric": [], "categorical": [], "text": ["t"]}
    rows = Rows.from_frame(pl.DataFrame({"t": texts, "y": rng.integers(0, 2, 900)}), schema)
    terms, scores = fit_terms(rows, 0)
    labels = np.asarray(rows.target) - rows.target.mean()
    seen, unseen = (np.corrcoef(s[:, 0], labels)[0, 1] for s in (score(terms, rows.text[:, 0]), scores))
    assert seen > 0.5 and abs(unseen) < 0.15


def test_groups_stay_together_where_texts_are_scored() -> None:
    table = notes(40).with_columns(author=pl.Series([i % 8 for i in range(40)]))
    schema, features = both(table, msgspec.structs.replace(DATA, time=None, group=("author",)))
    assert schema["group"] == ("author",) and "author" not in schema["numeric"]
    rows = Rows.from_frame(features, schema)
    assert rows.group is not None and len(np.unique(rows.group)) == 8
    folds = fold_numbers(rows)
    assert all(len(np.unique(folds[rows.group == group])) == 1 for group in np.unique(rows.group))


@pytest.mark.parametrize(
    ("days", "parts"), [(5, ["hour"]), (40, ["hour", "weekday"]), (900, ["hour", "weekday", "day", "month"])]
)
def test_a_time_has_the_parts_that_came_round_twice(days: int, parts: list[str]) -> None:
    step = timedelta(days=days) / 299
    table = notes(300).with_columns(written=pl.Series([START + step * i for i in range(300)])).drop("opened")
    schema, _ = both(table)
    assert schema["automatic"]["written"] == tuple(f"written.{part}" for part in parts)


def test_what_is_noise_is_left_out_and_not_read(trainer: LightningTrainer) -> None:
    rng = np.random.default_rng(1)
    table = notes().with_columns(good=pl.Series(rng.random(400) < 1 / (1 + np.exp(-3 * notes()["size"].to_numpy()))))
    fitted, schema, features = fitted_on(table, Linear(), trainer)
    assert not any(choice.kept for choice in fitted.choices if choice.column == "note")
    graph = graph_of(fitted, schema)
    assert "text" not in {i.name for i in graph.session.get_inputs()}
    assert np.abs(graph.predict(features) - fitted.predict(Rows.from_frame(features, schema))).max() < 1e-6
    json.dumps(msgspec.to_builtins(list(fitted.choices)), allow_nan=False)
