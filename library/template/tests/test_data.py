"""The sample, as every run sees it: it keeps its contract, each part has rows, and a record has its row's features."""

import polars as pl
import pytest
from notebento.core.compose import compose
from notebento.core.config import Config, build
from notebento.data.snapshot import Snapshot, take
from notebento.data.split import PARTS, refuse_leaks, split_at, split_of


@pytest.fixture(scope="module")
def config() -> Config:
    return compose(["experiment=lab"])


@pytest.fixture(scope="module")
def snapshot(config: Config) -> Snapshot:
    return take(config.data)


def test_the_sample_keeps_its_contract(config: Config, snapshot: Snapshot) -> None:
    assert snapshot.rejects.is_empty(), snapshot.rejects
    assert snapshot.tables[config.data.table].height > 0


def test_no_row_is_in_two_parts(config: Config, snapshot: Snapshot) -> None:
    rows = snapshot.tables[config.data.table]
    parts = split_of(rows, split_at(config.data, rows))
    together = pl.concat([parts[name].select(config.data.key) for name in PARTS])
    assert together.height and not together.is_duplicated().any()


def test_no_feature_gives_the_answer_away(config: Config, snapshot: Snapshot) -> None:
    maker = build(config.features)
    schema, table = maker.schema(snapshot.tables, config.data), maker.offline(snapshot.tables, config.data)
    refuse_leaks(table, config.data, [*schema.numeric, *schema.categorical])


def test_a_record_has_the_features_of_its_row(config: Config, snapshot: Snapshot) -> None:
    maker = build(config.features)
    schema = maker.schema(snapshot.tables, config.data)
    table = maker.offline(snapshot.tables, config.data).head(20)
    rows = snapshot.tables[config.data.table].join(table.select(config.data.key), on=config.data.key, how="semi")
    rows = table.select(config.data.key).join(rows, on=config.data.key, how="left", maintain_order="left")
    asked = build(schema.features).request(rows.select(*schema.record))
    assert asked.select(schema.request).equals(table.select(schema.request))
