"""The order of stages, for random pipelines."""

from hypothesis import given
from hypothesis import strategies as st

from notebento.core.config import StageConfig
from notebento.core.stage import ancestors, order


@st.composite
def pipelines(draw: st.DrawFn) -> dict[str, StageConfig]:
    """Random acyclic pipelines: stage i makes artifact i and needs some of those before it, listed in random order."""
    n = draw(st.integers(1, 8))
    needs = [draw(st.sets(st.integers(0, i - 1))) if i else set() for i in range(n)]
    stages = {
        f"s{i}": StageConfig("x.ipynb", (), tuple(f"a{j}" for j in sorted(needs[i])), (), (f"a{i}",)) for i in range(n)
    }
    return {k: stages[k] for k in draw(st.permutations(list(stages)))}


@given(pipelines())
def test_every_stage_comes_after_the_makers_of_its_inputs(stages: dict[str, StageConfig]) -> None:
    names = order(stages)
    assert sorted(names) == sorted(stages)
    for name in names:
        assert all(names.index(f"s{a[1:]}") < names.index(name) for a in stages[name].inputs)
        chosen = ancestors(stages, [name])
        assert chosen[-1] == name and all(f"s{a[1:]}" in chosen for c in chosen for a in stages[c].inputs)
