"""Structs and nodes where a notebook cannot look: plain values survive, and a wrong one is named by its place."""

import types
from collections.abc import Iterator
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from notebento.core.config import (
    BoundConfig,
    ColumnContract,
    Config,
    DataConfig,
    Node,
    RangeConfig,
    build,
    convert,
    leaves,
    plain,
)
from notebento.core.errors import UserError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=3))
def test_a_node_keeps_every_plain_value_and_none_of_its_containers(values: dict[str, Any]) -> None:
    node = Node(values)
    assert plain(node) == values

    def frozen(value: Any) -> bool:
        inner = value.values() if isinstance(value, Node) else value if isinstance(value, tuple) else []
        return not isinstance(value, dict | list) and all(map(frozen, inner))

    assert frozen(node)


NAMES = st.from_regex("[a-z]{1,5}", fullmatch=True)
SCALARS = st.integers() | st.lists(st.integers(), max_size=2)
TREES = st.recursive(SCALARS, lambda inner: st.dictionaries(NAMES, inner, max_size=3), max_leaves=10)


@given(st.dictionaries(NAMES, TREES, min_size=1, max_size=3))
def test_leaves_name_every_value_by_its_dotted_path(values: dict[str, Any]) -> None:
    again: dict[str, Any] = {}
    for name, leaf in leaves(values):
        *parents, last = name.split(".")
        tree = again
        for parent in parents:
            tree = tree.setdefault(parent, {})
        assert last not in tree
        tree[last] = leaf
    assert again == values


def test_the_default_configuration_survives_a_file() -> None:
    text = msgspec.json.encode(plain(Config()))
    assert convert(msgspec.json.decode(text), Config) == Config()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seed": "7"}, "seed: expected `int`, got `str`"),
        ({"trainer": {"epochs": 3.5}}, "trainer.epochs: expected `int | null`, got `float`"),
        ({"trainer": {"schedule": "cosine"}}, "trainer.schedule: invalid enum value 'cosine'"),
        ({"evaluate": {"gate": {"auc": {"mni": 0.7}}}}, "object contains unknown field `mni`"),
        ({"trainr": {}}, "the configuration: object contains unknown field `trainr`"),
        ({"pipeline": {"stages": {"data": {"groups": []}}}}, "object missing required field `notebook`"),
    ],
)
def test_a_wrong_value_is_named_by_its_place(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as e:
        convert(values, Config)
    assert message in str(e.value)


def test_build_names_a_missing_field_and_a_missing_class() -> None:
    with pytest.raises(UserError, match="notebook"):
        build({"_target_": "notebento.core.config.StageConfig"})
    with pytest.raises(UserError, match="notebento.core.config.Nothing"):
        build({"_target_": "notebento.core.config.Nothing"})
    with pytest.raises(UserError, match="name an importable class"):
        build({"_target_": "Config"})


# Numbers that may be any: what a column may hold, what a metric may be, where a search may look.
UNBOUNDED = {(ColumnContract, "min"), (ColumnContract, "max"), (ColumnContract, "allowed"), (BoundConfig, "min")}
UNBOUNDED |= {(BoundConfig, "max"), (RangeConfig, "low"), (RangeConfig, "high"), (RangeConfig, "choices")}
UNBOUNDED |= {(DataConfig, "event")}


def numbers(hint: Any, bounds: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The metadata of each number that `hint` allows."""
    if get_origin(hint) is Annotated:
        yield from numbers(hint.__origin__, hint.__metadata__)
    elif get_origin(hint) in (Union, types.UnionType, tuple, list, dict):
        for inner in get_args(hint):
            yield from numbers(inner)
    elif hint in (int, float):
        yield bounds


def structs(kind: Any) -> Iterator[type[msgspec.Struct]]:
    """`kind` and every struct in its fields."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        yield kind
        for hint in get_type_hints(kind, include_extras=True).values():
            yield from structs(hint)
    for inner in get_args(kind):
        yield from structs(inner)


def test_every_number_of_the_configuration_has_bounds() -> None:
    seen = 0
    for struct in set(structs(Config)):
        for name, hint in get_type_hints(struct, include_extras=True).items():
            for bounds in numbers(hint) if (struct, name) not in UNBOUNDED else ():
                seen += 1
                limits = [m for m in bounds if isinstance(m, msgspec.Meta) and (m.ge is not None or m.gt is not None)]
                assert limits, f"{struct.__name__}.{name} has no lower bound"
    assert seen > 30


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_refused_anywhere(value: float) -> None:
    for place in ("data.test_share", "model.lr", "evaluate.gate.auc.min"):
        values: Any = value
        for step in reversed(place.split(".")):
            values = {step: values}
        with pytest.raises(UserError, match=f"{place}: {value} is not a finite number"):
            convert(values, Config)
