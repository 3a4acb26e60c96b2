"""What a run says on the console: notices, plans and errors, without kernels."""

from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from toys import Toy, here

from notebento.core.artifacts import Manifest
from notebento.pipeline.engine import StageError
from notebento.pipeline.report import summary
from notebento.pipeline.terminal import Board

NOTICE = "2 of 9 rows [early] break the contract"
NOTE = f"stage.notice({NOTICE[:9]!r} + {NOTICE[9:]!r})\n"  # the report also shows the cell


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[Toy]:
    with here(Toy(tmp_path)) as toy:
        yield toy


def driven(toy: Toy, *overrides: str) -> tuple[str, Path]:
    """What a run prints, and its folder."""
    printed = Console(file=StringIO(), width=100)
    folder = toy.drive(*overrides, watcher=Board(printed))
    return printed.file.getvalue(), folder


def test_a_notice_is_shown_once_and_comes_back_from_the_cache(toy: Toy) -> None:
    toy.stages(count=({"outputs": ["n.json"]}, f'{NOTE}{NOTE}stage.write("n.json", 3)'))
    for cached in (False, True):
        printed, folder = driven(toy)
        record = Manifest.read(folder).stages["count"]
        assert (record.cached, record.notices) == (cached, [NOTICE]) and printed.count(NOTICE) == 1
        assert (folder / "report.html").read_text().count(NOTICE) == 1 and summary(folder).count("2 of 9 rows") == 1


def test_the_notices_of_a_failed_try_stay_with_it(toy: Toy) -> None:
    toy.stages(count=({"outputs": ["n.json"]}, f"{NOTE}1 / 0"))
    with pytest.raises(StageError):
        driven(toy)
    assert toy.last().stages["count"].notices == [NOTICE]
    toy.notebook("count", 'stage.write("n.json", 3)')
    driven(toy)
    assert toy.last().stages["count"].notices == []


def test_a_stage_that_is_tried_again_notices_anew(toy: Toy) -> None:
    again = "first = not (stage.work / 'again').exists()\n(stage.work / 'again').touch()\nif first:\n    "
    again += f'{NOTE}    1 / 0\nstage.write("n.json", 3)'
    toy.stages(count=({"outputs": ["n.json"], "retries": 1}, again))
    driven(toy)
    assert toy.last().stages["count"].notices == []
