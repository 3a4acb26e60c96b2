"""The pages of the site, in reading order, and the files of the repository that they are made from."""

import re
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from notebooks import Markup, fenced, notebook_markup, title_and_summary

DOCS = Path(__file__).parent
REPOSITORY = DOCS.parents[1]
LIBRARY = "library/nbs"


@dataclass(frozen=True)
class Page:
    """A page: its place in the site, its text, and the file that this is from, to which relative links refer."""

    name: str
    text: Markup
    source: str = ""  # relative to the repository; empty: generated, its links refer to pages
    children: list["Page"] = field(default_factory=list)
    label: str = ""  # in the contents, where that is not the title

    @property
    def title(self) -> str:
        """The first heading."""
        return title_and_summary(self.text.plain)[0]

    @property
    def summary(self) -> str:
        """The quoted line below the title, without links."""
        return re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title_and_summary(self.text.plain)[1])


@dataclass(frozen=True)
class Section:
    """Pages under one heading of the contents."""

    title: str
    pages: list[Page]


def all_pages(sections: list[Section]) -> Iterator[Page]:
    """The pages of the sections, each before those below it."""
    for section in sections:
        yield from _with_children(section.pages)


def _with_children(pages: list[Page]) -> Iterator[Page]:
    for page in pages:
        yield page
        yield from _with_children(page.children)


def markdown_page(name: str, source: str) -> Page:
    """A page from a Markdown file."""
    text = (REPOSITORY / source).read_text(encoding="utf-8")
    return Page(name, Markup(text, text), source)


def notebook_page(name: str, source: str, executed: dict[str, Path], module: str = "") -> Page:
    """A page from a notebook, with the outputs of its executed copy if there is one."""
    return Page(name, notebook_markup(executed.get(source, REPOSITORY / source), module), source)


def howto_pages() -> list[Page]:
    """The how-to pages, in the order of the index."""
    index = (DOCS / "howto" / "index.md").read_text(encoding="utf-8")
    names = re.findall(r"\]\((\w+)\.md\)", index)
    return [markdown_page(f"howto/{name}", f"library/docs/howto/{name}.md") for name in dict.fromkeys(names)]


def project_pages(executed: dict[str, Path]) -> list[Page]:
    """The notebooks of the project in which the library is developed."""
    notebooks = sorted((REPOSITORY / "nbs").glob("0*.ipynb"))
    return [notebook_page(f"flights/{path.stem}", f"nbs/{path.name}", executed) for path in notebooks]


def layers() -> dict[str, list[str]]:
    """The packages of the library and the modules of each, in import order."""
    settings = tomllib.loads((REPOSITORY / "library/pyproject.toml").read_text(encoding="utf-8"))
    contracts = {c["containers"][0]: c["layers"][::-1] for c in settings["tool"]["importlinter"]["contracts"]}
    return {package: contracts.get(f"notebento.{package}", []) for package in contracts["notebento"]}


def library_pages(executed: dict[str, Path]) -> list[Page]:
    """A page for each package of the library, and below it one for each of its notebooks."""
    return [_package_page(package, modules, executed) for package, modules in layers().items() if modules]


def _package_page(package: str, modules: list[str], executed: dict[str, Path]) -> Page:
    pages = [
        notebook_page(f"library/{package}/{m}", f"{LIBRARY}/{package}/{m}.ipynb", executed, f"notebento.{package}.{m}")
        for m in modules
    ]
    docstring = _package_docstring(package)
    rows = [f"| [{page.title}]({page.name.rpartition('/')[2]}.md) | {page.summary} |" for page in pages]
    text = "\n".join([f"# {package}", f"> {docstring}", "", "| module | what it is for |", "|---|---|", *rows, ""])
    return Page(f"library/{package}/index", Markup(text, text), "", pages)


def _package_docstring(package: str) -> str:
    """What the library's README says that the package contains."""
    readme = (REPOSITORY / "library/README.md").read_text(encoding="utf-8")
    row = re.search(rf"^\| {package} \| (.*?) \|$", readme, re.M)
    assert row, f"library/README.md has no row about {package}"
    return row[1][0].upper() + row[1][1:] + "."


def source_page(path: str) -> Page:
    """A page with the text of a file of the repository, or with the list of the files in a folder."""
    place = REPOSITORY / path
    if place.is_dir():
        listed = subprocess.run(["git", "ls-files", "."], cwd=place, capture_output=True, text=True, check=True).stdout
        body = "\n".join(f"- `{name}`" for name in listed.splitlines())
    else:
        kinds = {".py": "python", ".toml": "toml", ".yaml": "yaml", ".yml": "yaml", ".jinja": "jinja"}
        body = fenced(place.read_text(encoding="utf-8").rstrip("\n"), kinds.get(place.suffix, "text"))
    text = f"# `{path}`\n\n{body}\n"
    return Page(f"source/{path}", Markup(f"---\norphan: true\n---\n{text}", text))
