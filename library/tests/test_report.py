"""The report where a notebook cannot look: hostile text, random pipelines, a real browser, what a fast run imports."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from conftest import after_loading
from hypothesis import given, settings
from hypothesis import strategies as st

from notebento.core.artifacts import Manifest, StageRecord, describe, save
from notebento.core.html import Html, from_template, page
from notebento.pipeline.cache import Cache
from notebento.pipeline.compare import compare
from notebento.pipeline.comparison import sweep_rows, write_comparison, write_sweep
from notebento.pipeline.drawing import dag, edges, layers
from notebento.pipeline.rendering import Picture, cleaned, render
from notebento.pipeline.report import summary, write_report
from notebento.pipeline.terminal import stage_lines

HOSTILE = "</details></main><script>alert(1)</script><img src=x onerror=alert(2)>\"'><b>&"


class Reader(HTMLParser):
    """The elements of a page, and whether each is closed where it was opened."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.balanced = True
        self.feed(text)
        self.close()
        self.balanced &= not self.open

    def handle_starttag(self, name, attrs):
        self.seen.append((name, dict(attrs)))
        if name not in ("br", "hr", "img", "meta"):
            self.open.append(name)

    def handle_endtag(self, name):
        self.balanced &= bool(self.open) and self.open.pop() == name


def harmless(text: str) -> bool:
    """Does nothing in `text` run, load or break out?"""
    page = Reader(text)
    return page.balanced and not any(
        name in ("script", "iframe", "object", "link", "base", "form")
        or any(a.startswith("on") for a in attributes)
        or not (attributes.get("src") or "data:image/").startswith("data:image/")
        or not re.match(r"https?://|#|\.\.?/", attributes.get("href") or "#")
        for name, attributes in page.seen
    )


def notebook(path: Path, *cells: tuple[str, list]) -> Path:
    """A notebook of code cells with outputs; the first one takes the parameters."""
    made = [
        {"cell_type": "code", "source": s, "outputs": o, "metadata": {"tags": ["parameters"] if i == 0 else []}}
        for i, (s, o) in enumerate(cells)
    ]
    return save(path, json.dumps({"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))


def hostile_run(folder: Path) -> Path:
    """A failed run in which every text is an attack."""
    run_dir = folder / "runs" / "r1"
    metrics = {"test": {HOSTILE: {HOSTILE: {"value": 0.5, "low": 0.4, "high": 0.6}}}}
    paths = {
        "metrics.json": save(run_dir / "artifacts" / "metrics.json", metrics),
        "comparison.json": save(run_dir / "artifacts" / "comparison.json", {"differences": metrics}),
        "gate.json": save(run_dir / "artifacts" / "gate.json", {"passed": False, "reasons": [HOSTILE]}),
        "snapshot" + HOSTILE: save(run_dir / "artifacts" / "x.json", 1),
    }
    made = {name: describe(path, run_dir, compared=True) for name, path in paths.items()}
    stages = {
        "data": StageRecord(HOSTILE, "done", HOSTILE, True, HOSTILE, seconds=1.0, artifacts=made),
        HOSTILE: StageRecord(
            HOSTILE, "failed", "k", why=[HOSTILE], inputs={"snapshot" + HOSTILE: HOSTILE}, changed=[HOSTILE]
        ),
        "last": StageRecord("x.ipynb", "skipped"),
    }
    config = {"data": {"source": {"_target_": HOSTILE}, "as_of": HOSTILE}, "project": {"name": HOSTILE}}
    Manifest("r1", "failed", HOSTILE, True, [HOSTILE], "x", config, {"python": HOSTILE}, stages).write(run_dir)
    return run_dir


def failing(folder: Path) -> Path:
    """The page of a notebook whose outputs and error are attacks."""
    outputs = [
        {"output_type": "stream", "name": "stdout", "text": HOSTILE},
        {"output_type": "display_data", "data": {"text/html": HOSTILE, "text/plain": "x"}},
        {"output_type": "display_data", "data": {"text/markdown": HOSTILE}},
        {"output_type": "display_data", "data": {"image/svg+xml": "<svg onload='alert(1)'></svg>"}},
        {"output_type": "error", "ename": "E", "evalue": HOSTILE, "traceback": [HOSTILE, "x" * 3000]},
    ]
    executed = notebook(folder / "x.ipynb", ("overrides = []", []), (f"#| fig-cap: {HOSTILE}\nf('{HOSTILE}')", outputs))
    return save(folder / "x.html", render(executed))


def test_nothing_that_somebody_wrote_runs_or_breaks_out(tmp_path):
    run_dir = hostile_run(tmp_path)
    text = write_report(run_dir, {HOSTILE: failing(tmp_path)}).read_text()
    assert harmless(text)
    assert text.count("This cell failed.") == 2
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "default-src 'none'" in text
    assert "<script" not in summary(run_dir)
    assert harmless(write_sweep(sweep_rows([run_dir, run_dir]), tmp_path / "s.html").read_text())
    assert harmless(write_comparison(compare(run_dir, run_dir, Cache(tmp_path)), tmp_path / "c.html").read_text())


PIECES = [
    "<",
    ">",
    "</",
    "<b>",
    "</b>",
    "<script>",
    "</script>",
    "<svg onload=x>",
    "</svg>",
    "<img src='",
    "'>",
    "<![",
    "]",
]
PIECES += [
    "<!--",
    "-->",
    "<td>",
    "</table>",
    "<a href='javascript:x'>",
    '<a href="data:x">',
    "&lt;script&gt;",
    "x",
    '"',
    "?",
]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_cleaned_html_is_harmless(text):
    assert harmless(cleaned(text))


@settings(max_examples=100, deadline=None)
@given(st.text(), st.text(min_size=1))
def test_a_template_holds_its_text_and_attributes_as_they_are(text, value):
    found = Reader(from_template("cell.html.j2", **a_cell(text, value)))
    assert found.balanced
    assert [n for n, _ in found.seen] == ["details", "summary", "code", "pre", "code", "figure", "div", "img", "figcaption"]
    assert dict(found.seen)["img"]["alt"] == value


def a_cell(first: str, caption: str) -> dict:
    """What the template of a cell shows: a line of code, and a picture with a caption."""
    picture = Picture("data:image/png;base64,", None, caption)
    return {"first": first, "code": first, "outputs": [("picture", picture)], "failed": False}


@pytest.mark.server
def test_a_page_fits_a_phone(tmp_path):
    report = write_report(hostile_run(tmp_path), {HOSTILE: failing(tmp_path)}).read_text()
    (tmp_path / "report.html").write_text(report.replace("<details", "<details open"))
    (tmp_path / "wide.html").write_text(page("base.html.j2", "wide", body=Html("<div style='width: 900px'>x</div>")))
    frame = "<iframe src='{}.html' style='width: 360px; height: 800px; border: 0'></iframe>"
    (tmp_path / "frame.html").write_text(f"""{frame.format("report")}{frame.format("wide")}<p></p><script>
        const over = f => f.contentDocument.documentElement.scrollWidth - f.contentDocument.documentElement.clientWidth
        onload = () => document.querySelector("p").textContent =
            [...document.querySelectorAll("iframe")].map(f => over(f) > 0 ? "scrolls" : "fits").join(" ")</script>""")
    assert re.findall("<p>(.*)</p>", after_loading(tmp_path / "frame.html")) == ["fits scrolls"]


FAST = """
import sys
from pathlib import Path
from notebento.pipeline.report import summary, write_report
write_report(Path(sys.argv[1]), {"data": Path(sys.argv[2])})
summary(Path(sys.argv[1]))
slow = {"polars", "rich", "torch", "markdown_it", "pygments", "IPython", "numpy"}
print(sorted({m.split(".")[0] for m in sys.modules} & slow))
"""


@pytest.mark.process
def test_writing_a_report_imports_nothing_slow(tmp_path):
    command = [sys.executable, "-c", FAST, str(hostile_run(tmp_path)), str(failing(tmp_path))]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"


@st.composite
def pipelines(draw):
    """A manifest of a random pipeline."""
    count = draw(st.integers(1, 12))
    stages = {}
    for i in range(count):
        before = draw(st.sets(st.integers(0, i - 1), max_size=3)) if i else set()
        stages[f"s{i}"] = {"inputs": [f"a{j}" for j in sorted(before)], "outputs": [f"a{i}"]}
    records = {name: StageRecord("x.ipynb") for name in draw(st.permutations(list(stages)))}
    return Manifest("r", "running", "", True, [], "x", {"pipeline": {"stages": stages}}, {}, records)


@settings(max_examples=100, deadline=None)
@given(pipelines())
def test_the_drawing_of_any_pipeline(manifest):
    lines = edges(manifest)
    assert len(lines) == sum(len(s["inputs"]) for s in manifest.config["pipeline"]["stages"].values())
    row = {name: i for i, names in enumerate(layers(manifest.stages, lines)) for name in names}
    assert all(row[a] < row[b] for a, b in lines)
    drawn = Reader(dag(manifest)).seen
    boxes = [tuple(float(a[k]) for k in ("x", "y", "width", "height")) for n, a in drawn if n == "rect"]
    assert len(boxes) == len(manifest.stages)
    assert all(x >= 0 and x + w <= 360 for x, _, w, _ in boxes)
    apart = [abs(a[0] - b[0]) >= a[2] or abs(a[1] - b[1]) >= a[3] for a in boxes for b in boxes if a is not b]
    assert all(apart)
    assert sum(a.get("class") == "edge" for _, a in drawn) == len(lines)


@pytest.mark.parametrize("status", ["waiting", "running", "failed", "interrupted", "skipped", "done"])
def test_a_run_that_did_not_come_far_has_a_report(tmp_path, status):
    Manifest("r", "running", "", True, [], "x", {}, {}, {"data": StageRecord("02_data.ipynb", status)}).write(tmp_path)
    assert harmless(write_report(tmp_path, {"data": tmp_path / "nothing.html"}).read_text())
    assert "data" in summary(tmp_path)


def test_a_result_that_changed_while_it_ran_is_marked(tmp_path):
    other = StageRecord("data.ipynb", "done", seconds=1.0)
    edited = StageRecord("train.ipynb", "done", seconds=1.0, changed=["train.ipynb", "src/toy/model.py"])
    Manifest("r", "done", "", True, [], "x", {}, {}, {"train": edited, "data": other}).write(tmp_path)
    mark = "changed while it ran, not cached: train.ipynb, src/toy/model.py"
    assert write_report(tmp_path, {}).read_text().count(mark) == 1
    assert summary(tmp_path).count(mark.replace("_", r"\_")) == 1
    assert stage_lines("train", edited).count(mark) == 1 and "cached" not in stage_lines(
        "data", StageRecord("data.ipynb")
    )


def test_what_only_scripts_draw_is_shown_as_text(tmp_path):
    drawn = {"text/html": "<div id='x'> </div><script>draw()</script>", "text/plain": "a plot"}
    outputs = [{"output_type": "display_data", "data": drawn}]
    assert "<pre>a plot</pre>" in render(notebook(tmp_path / "x.ipynb", ("draw()", outputs)))


def test_a_page_is_one_document():
    assert Reader(page("base.html.j2", "a", body="b")).balanced
