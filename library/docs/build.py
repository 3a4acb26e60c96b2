"""The documentation site, from the README, the tour, the how-to pages, the decisions and the library's notebooks.

    python3 library/docs/build.py [--execute] [--out DIR]

Notebooks are committed without outputs; `--execute` runs those that changed since they last ran here, and shows what
they print and draw. A link that leads nowhere is an error. The site works from its folder, without a server or a
network: open DIR/index.html. Without Sphinx in this environment it continues in .venv, where it installs the extra
`docs`.
"""

import importlib.util
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2] / "scripts")]
import environment

if importlib.util.find_spec("sphinx") is None:
    environment.inside("train", "dev", "docs")

import argparse
import io
import re
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from itertools import chain
from typing import Any

import docutils.nodes
from execution import executed_notebooks
from links import between, broken_links, relinked, resolved
from notebooks import Markup
from pages import (
    DOCS,
    REPOSITORY,
    Page,
    Section,
    all_pages,
    howto_pages,
    library_pages,
    markdown_page,
    notebook_page,
    project_pages,
    source_page,
)
from reference import commands_page, configuration_page
from sphinx.application import Sphinx

import notebento

BUILD = DOCS / "build"  # ignored by git
SETTINGS = {
    "project": "notebento",
    "extensions": ["myst_parser", "sphinx_copybutton"],
    "html_theme": "furo",
    "html_title": f"notebento {notebento.__version__}",
    "html_static_path": ["_static"],
    "html_css_files": ["site.css"],
    "html_copy_source": False,
    "html_show_sourcelink": False,
    "html_show_copyright": False,
    "html_show_sphinx": False,
    "html_last_updated_fmt": None,
    "highlight_language": "python",
    "pygments_dark_style": "github-dark",
    "nitpicky": True,
    "myst_heading_anchors": 4,
    "myst_links_external_new_tab": False,
    "suppress_warnings": ["myst.header", "misc.highlighting_failure"],
    "copybutton_selector": "div.highlight-bash pre, div.highlight-python pre, div.highlight-yaml pre",
    "copybutton_exclude": ".linenos, .gp, .go",
    "toc_object_entries": False,
    "add_module_names": False,
    "python_use_unqualified_type_names": True,
}


def site_sections(executed: dict[str, Path]) -> list[Section]:
    """The contents of the site in reading order; the first page is the home page."""
    howto = replace(markdown_page("howto/index", "library/docs/howto/index.md"), children=howto_pages())
    library = markdown_page("library/index", "library/README.md")
    commands, configuration = commands_page(), configuration_page()
    return [
        Section("", [markdown_page("index", "README.md")]),
        Section("Start", [replace(notebook_page("tour", "nbs/index.ipynb", executed), label="Tour"), howto]),
        Section(
            "Understand",
            [markdown_page("concepts", "library/docs/concepts.md"), markdown_page("decisions", "nbs/decisions.md")],
        ),
        Section("The example project", project_pages(executed)),
        Section("The library", [replace(library, label="Overview"), *library_pages(executed)]),
        Section(
            "Reference",
            [
                Page("reference/commands", Markup(commands, commands)),
                Page("reference/configuration", Markup(configuration, configuration)),
                markdown_page("changelog", "CHANGELOG.md"),
            ],
        ),
    ]


def contents(sections: list[Section]) -> str:
    """The tables of contents, which the home page holds; Sphinx makes the navigation of all pages from them."""
    return "\n".join(
        f"```{{toctree}}\n:hidden:\n:caption: {s.title}\n\n" + "\n".join(map(entry, s.pages)) + "\n```\n"
        for s in sections[1:]
    )


def entry(page: Page) -> str:
    """A line of a table of contents."""
    return f"{page.label} <{page.name}>" if page.label else page.name


def below(page: Page) -> str:
    """The table of contents of a page with pages below it."""
    names = "\n".join(child.name.rpartition("/")[2] for child in page.children)
    return f"\n```{{toctree}}\n:hidden:\n\n{names}\n```\n" if page.children else ""


class Linker:
    """Links between files of the repository as links between pages, with a page for each other file that is linked."""

    def __init__(self, pages: Iterable[Page], folder: Path) -> None:
        self.by_source = {page.source: page.name for page in pages if page.source}
        self.folder = folder
        self.added: list[Page] = []
        self.problems: list[str] = []

    def markup(self, page: Page) -> Markup:
        """The text of a page with links that work in the site."""
        if not page.source:
            return page.text
        return Markup(*(relinked(text, lambda target: self._link(page, target)) for text in page.text))

    def _link(self, page: Page, target: str) -> str:
        path, anchor = resolved(target, page.source)
        if path == page.source:
            return f"#{anchor}"
        if (REPOSITORY / path).suffix in (".webp", ".png", ".svg"):
            return self._picture(page, path)
        if path not in self.by_source:
            if not (REPOSITORY / path).exists():
                self.problems.append(f"{page.source}: a link to {target}, which is not in the repository")
                return target
            self.added.append(source_page(path))
            self.by_source[path] = self.added[-1].name
        return between(page.name, self.by_source[path], anchor)

    def _picture(self, page: Page, path: str) -> str:
        """A picture lies beside the pages, and in the site beside the Markdown."""
        place = self.folder / "_static" / Path(path).name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(REPOSITORY / path, place)
        return between(page.name, f"_static/{place.name}").removesuffix(".md")


def write_pages(sections: list[Section], folder: Path) -> tuple[dict[str, Markup], list[str]]:
    """Write all pages for Sphinx into `folder`; return their texts by name, and the links that lead nowhere."""
    pages, texts = [*all_pages(sections)], dict[str, Markup]()
    linker = Linker(pages, folder)
    for page in chain(pages, linker.added):  # which grows meanwhile
        texts[page.name] = linker.markup(page)
    tails = {page.name: below(page) for page in pages} | {pages[0].name: "\n" + contents(sections)}
    for name, text in texts.items():
        write(folder / f"{name}.md", text.site + tails.get(name, ""))
    shutil.copytree(DOCS / "static", folder / "_static", dirs_exist_ok=True)
    return texts, linker.problems


def write(path: Path, text: str) -> None:
    """Write `text`, in a folder that need not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


# ---- names of the library in the text

NAMED = re.compile(r"(?:[a-z_]+\.)*(?:[A-Z]\w*[a-z]\w*|[a-z]+(?:_[a-z]+)+|\w+(?=\(\)))(?:\(\))?")


def link_names(app: Sphinx, document: docutils.nodes.document, name: str) -> None:
    """Names of the library's functions and classes in the text become links to where they are defined."""
    objects: dict[str, list[Any]] = {}
    for path, entry in app.env.domaindata["py"]["objects"].items():
        if entry.objtype != "module":
            objects.setdefault(path.rpartition(".")[2], []).append((path, entry))
    for literal in [*document.findall(docutils.nodes.literal)]:
        said = literal.astext()
        if isinstance(literal.parent, docutils.nodes.reference | docutils.nodes.title) or not NAMED.fullmatch(said):
            continue
        wanted = said.removesuffix("()")
        found = [e for p, e in objects.get(wanted.rpartition(".")[2], ()) if f".{p}".endswith(f".{wanted}")]
        if len(found) == 1:
            uri = app.builder.get_relative_uri(name, found[0].docname) + f"#{found[0].node_id}"
            if found[0].docname == name:
                uri = f"#{found[0].node_id}"
            link = docutils.nodes.reference("", "", internal=True, refuri=uri)
            literal.replace_self(link)
            link += literal


# ---- for machines

ABOUT = """# notebento

> A template for machine learning in Python in which notebooks are the source code: the notebooks that you explore with
> are the tested package, the stages of a reproducible pipeline, and the service that answers production traffic.

Every page of this site also exists as Markdown, at the same address with `.md` instead of `.html`; the links below
lead there.
"""


def llms_text(sections: list[Section]) -> str:
    """The list of all pages for language models, see https://llmstxt.org."""
    lines = [ABOUT]
    for section in sections:
        lines += [f"## {section.title or 'Overview'}", ""]
        for page in all_pages([section]):
            lines.append(f"- [{page.title}]({page.name}.md)" + (f": {page.summary}" if page.summary else ""))
        lines.append("")
    return "\n".join(lines)


# ---- the command


def build(out: Path, execute: bool = False) -> list[str]:
    """Build the site into the folder `out`, in place of an earlier one; return what is wrong with it."""
    if out.exists() and any(out.iterdir()) and not (out / "llms.txt").is_file():
        raise SystemExit(f"{out} has files that are not a site's; name another folder with --out")
    sections = site_sections(executed_notebooks(BUILD / "executed") if execute else {})
    said = io.StringIO()
    with tempfile.TemporaryDirectory() as scratch:
        pages, site = Path(scratch, "pages"), Path(scratch, "site")
        texts, problems = write_pages(sections, pages)
        options: dict[str, Any] = {"status": None, "warning": said, "freshenv": True, "parallel": 2}
        write(pages / "conf.py", "".join(f"{name} = {value!r}\n" for name, value in SETTINGS.items()))
        app = Sphinx(pages, pages, site, Path(scratch, "doctrees"), "html", **options)
        app.connect("doctree-resolved", link_names)
        app.build(force_all=True)
        for name, text in texts.items():
            write(site / f"{name}.md", text.plain)
        write(site / "llms.txt", llms_text(sections))
        problems = [*dict.fromkeys(problems), *filter(str.strip, said.getvalue().splitlines()), *broken_links(site)]
        shutil.rmtree(out, ignore_errors=True)
        shutil.move(site, out)
    return [problem.replace(f"{pages}/", "") for problem in problems]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--execute", action="store_true", help="run the notebooks, and show their outputs")
    parser.add_argument("--out", type=Path, default=BUILD / "site", help="where the site goes")
    arguments = parser.parse_args()
    problems = build(arguments.out.resolve(), arguments.execute)
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{arguments.out / 'index.html'}: {len(problems) or 'no'} problem{'s' if len(problems) != 1 else ''}")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
