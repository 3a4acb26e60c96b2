"""The report where a notebook cannot look: hostile text, random pipelines, a real browser, what a fast run imports."""

import io
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
from rich.console import Console

from notebento.core.artifacts import Manifest, StageRecord, artifact_record, save
from notebento.core.html import Html, from_template, page
from notebento.pipeline.cache import Cache
from notebento.pipeline.compare import compare
from notebento.pipeline.comparison import sweep_rows, write_comparison, write_sweep
from notebento.pipeline.drawing import dag, edges, layers
from notebento.pipeline.rendering import Picture, cleaned, render
from notebento.pipeline.report import first_screen, summary, write_report
from notebento.pipeline.terminal import show, stage_lines

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
    made = {name: artifact_record(path, run_dir, compared=True) for name, path in paths.items()}
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


def judged_run(folder: Path, *checks: dict, status: str = "done", failed: str = "") -> Path:
    """A run whose gate made `checks`, and whose model was compared with a baseline and with the champion."""
    gate = {"passed": all(c["passed"] for c in checks), "checks": checks}
    gate["reasons"] = [c["reason"] for c in checks if not c["passed"]]
    metrics = {"test": {"notebento": {"loss": VALUE}, "<script>": {"loss": VALUE | {"value": 0.4}}}}
    gains = {"<script>": {"loss": BELOW_ZERO}, "champion": {"loss": BELOW_ZERO | {"low": -0.2, "high": 0.1}}}
    files = {
        "gate.json": gate,
        "metrics.json": metrics,
        "comparison.json": {"differences": {"test": gains}, "better": {"loss": "lower"}, "bootstrap": 9, "unit": "row"},
        "split.json": {"rows": {"train": 1234, "test": 56}, "test": ["2013-03-01T04:00:00+00:00", "2013-04-01"]},
    }
    made = {name: artifact_record(save(folder / name, value), folder, compared=True) for name, value in files.items()}
    stages = {"evaluate": StageRecord("07.ipynb", "done", notices=["<b> rows"], why=["it never ran"], artifacts=made)}
    stages |= {name: StageRecord("x.ipynb", "failed", why=["it never ran"]) for name in [failed] if name}
    stages |= {name: StageRecord("x.ipynb", "skipped") for name in ("register", "bento")}
    Manifest("r1", status, "abc", False, [], "x", {}, {}, stages).write(folder)
    return folder


VALUE, BELOW_ZERO = {"value": 0.5, "low": 0.4, "high": 0.6}, {"value": -0.1, "low": -0.2, "high": -0.05}
PASSES = {"name": "loss max", "passed": True, "value": 0.5, "limit": 0.7, "reason": "loss 0.5000 is at most 0.7"}
FAILS = {"name": "loss max", "passed": False, "value": 0.5, "limit": 0.3, "reason": "loss 0.5000 is above 0.3"}


@pytest.mark.parametrize(
    ("checks", "failed", "verdict", "why"),
    [
        ([PASSES], "", "✓ This model may ship", "it passed the one check of the gate"),
        ([PASSES, FAILS], "", "✗ This model does not ship", "loss 0.5000 is above 0.3"),
        ([PASSES], "package", "✗ This model does not ship", "the run failed in package, after the model passed"),
    ],
)
def test_the_first_screen_says_whether_the_model_ships_and_why(tmp_path, checks, failed, verdict, why):
    run_dir = judged_run(tmp_path, *checks, failed=failed)
    text = write_report(run_dir, {}).read_text()
    assert verdict in text and f"Why: {why}" in text
    assert text.index(verdict) < text.index("at most 0.7") < text.index("How good it is") < text.index("What ran")
    assert verdict[2:] in summary(run_dir) and why in summary(run_dir)


def test_a_model_that_passes_but_is_not_the_one_to_use_is_not_praised(tmp_path):
    nothing = {"name": "champion", "passed": True, "value": None, "limit": None, "reason": "not compared: none"}
    run_dir = judged_run(tmp_path, PASSES, nothing)
    said = json.loads((run_dir / "comparison.json").read_text()) | {"meanings": {"loss": "what it costs"}}
    said["recommended"] = {"model": "trees", "reason": "its loss 0.4 is better than notebento's 0.5", "alike": []}
    save(run_dir / "comparison.json", said)
    screen = first_screen(Manifest.read(run_dir), run_dir)
    assert "✓ This model may ship, but trees is recommended</h1>" in screen
    assert "Why: it passed the one check of the gate." in screen  # the champion was not compared
    assert "Recommended: trees; its loss 0.4 is better than notebento" in screen
    assert "<b>loss</b>: what it costs." in screen and "<td>–</td>" in screen
    assert "but trees is recommended" in summary(run_dir)
    console = Console(width=100, file=io.StringIO())
    show(run_dir, Manifest.read(run_dir), console)
    text = " ".join(console.file.getvalue().split())
    assert "gate passed, but trees is recommended, not this model" in text
    assert "ours against champion: loss -0.1000 " in text and "ours against <script>: loss -0.1000*" in text


def test_the_first_screen_has_numbers_limits_rivals_data_and_cautions(tmp_path):
    screen = first_screen(Manifest.read(judged_run(tmp_path, PASSES, FAILS)), tmp_path)
    assert harmless(screen)
    row = "<td>loss</td><td>0.5000</td><td>at most 0.7</td>"
    assert row in screen and row.replace("0.7", "0.3") in screen
    assert "ours is worse by 0.1000" in screen and "no clear difference" in screen
    assert screen.count('"loss">0.4000') == 2  # the baseline's, and the champion's: ours loses 0.1, and less is better
    assert "1,234" in screen and "2013-03-01" in screen
    assert "evaluate: &lt;b&gt; rows" in screen and "worse than &lt;script&gt;: loss by 0.1000" in screen


def test_a_first_run_and_stages_that_did_not_run_are_no_noise(tmp_path):
    text = write_report(judged_run(tmp_path, FAILS, failed="package"), {}).read_text()
    assert text.count("Did not run: register, bento.") == 1
    assert text.count("it never ran") == 2  # among the facts of a stage, which are folded
    assert '<div class="quiet">it never ran' not in text and "never ran" not in summary(tmp_path)


@pytest.mark.parametrize("said", ["#| fig-cap: Two plots.\n", ""])
def test_no_two_figures_have_the_same_caption(tmp_path, said):
    image = {"output_type": "display_data", "data": {"image/png": "iVBORw0KGgo"}}
    titled = image | {"metadata": {"caption": "Gain <b>"}}
    text = render(notebook(tmp_path / "x.ipynb", ("overrides = []", []), (f"{said}draw()", [image, titled, image])))
    captions = re.findall("<figcaption>(.*)</figcaption>", text)
    assert captions == (["Two plots (1 of 3)", "Gain &lt;b&gt;", "Two plots (3 of 3)"] if said else ["Gain &lt;b&gt;"])
    assert re.findall('alt="(.*?)"', text) == (captions if said else ["", *captions, ""])


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
    assert " ".join(n for n, _ in found.seen) == "details summary code pre code figure div img figcaption"
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
assert "jinja2" not in sys.modules  # most commands write no page
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
