"""The documentation: the site is built and every link of it leads somewhere; every how-to page works as it stands."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from following import Reader, steps

DOCS = Path(__file__).resolve().parents[2] / "docs"
HOWTO = DOCS / "howto"
PAGES = sorted({path.stem for path in HOWTO.glob("*.md")} - {"index", "table"})

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built without running notebooks."""
    out = tmp_path_factory.mktemp("site")
    build(out)
    return out


def build(out: Path, *options: str) -> None:
    """The command of the README. It fails if a link leads nowhere, or a page loads something from elsewhere."""
    command = [sys.executable, DOCS / "build.py", "--out", out, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_notebook_of_the_library_is_a_page_with_links_to_its_names(site: Path) -> None:
    page = (site / "library/data/contract.html").read_text()
    assert 'id="notebento.data.contract.' in page and "#| export" not in page and "#| hide" not in page
    assert 'href="../core/errors.html#notebento.core.errors.UserError"' in page


def test_every_page_of_llms_txt_exists_and_every_page_is_in_it(site: Path) -> None:
    listed = re.findall(r"^- \[.+?\]\((.+?)\)", (site / "llms.txt").read_text(), re.M)
    assert len(listed) == len({*listed}) > 100
    assert all((site / name).is_file() and (site / name).with_suffix(".html").is_file() for name in listed)
    pages = {path.relative_to(site).as_posix() for path in site.rglob("*.md")}
    assert {name for name in pages if not name.startswith("source/")} == {*listed}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with which every other page begins, its pipeline not run."""
    folder = tmp_path_factory.mktemp("howto") / "here"
    folder.mkdir()
    reader = Reader(folder)
    reader.follow(HOWTO / "table.md")
    return reader.folder


def test_a_table_of_your_own(project: Path) -> None:
    assert project.name == "churn" and (project / "conf/data/churn.yaml").is_file()


@pytest.mark.parametrize("page", PAGES)
def test_a_page_can_be_followed(page: str, project: Path, tmp_path: Path) -> None:
    """Its files, cells and commands fit the project; runs are planned, which composes, exports and checks."""
    shutil.copytree(project, tmp_path / "churn")
    Reader(tmp_path / "churn").follow(HOWTO / f"{page}.md")


def test_every_page_has_steps_and_is_in_the_index() -> None:
    index = (HOWTO / "index.md").read_text()
    for page in [*PAGES, "table"]:
        assert f"]({page}.md)" in index and {step.kind for step in steps(HOWTO / f"{page}.md")} >= {"bash", "text"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project after its first run, its tests and its first answer."""
    folder = tmp_path_factory.mktemp("howto") / "here"
    folder.mkdir()
    reader = Reader(folder, brief=False)
    reader.follow(HOWTO / "table.md")
    return reader.folder


@pytest.mark.nightly
@pytest.mark.parametrize("page", PAGES)
def test_a_page_does_what_it_says(page: str, model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "churn", symlinks=True)
    Reader(tmp_path / "churn", brief=False).follow(HOWTO / f"{page}.md")


@pytest.mark.nightly
def test_with_its_outputs_the_site_shows_tables_and_plots(tmp_path: Path) -> None:
    """All notebooks of library and project run; a page shows what its cells print and draw."""
    build(tmp_path, "--execute")
    assert "<table>" in (tmp_path / "library/data/sources.html").read_text()
    assert '<figure><img src="data:image/png' in (tmp_path / "flights/07_evaluate.html").read_text()
