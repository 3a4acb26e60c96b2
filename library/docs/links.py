"""Links: those between files of the repository become links between pages, and all of the finished site are checked."""

import os
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from html import unescape
from pathlib import Path
from urllib.parse import unquote

# A fenced block, code in a line, or a link; only links are changed.
FENCE = r"^(?P<fence>`{3,}|~{3,}).*?^(?P=fence)`*[ ]*$"
MARKDOWN = re.compile(
    rf"{FENCE}|(?P<tick>`+)[^`].*?(?P=tick)|(?P<text>\]\()(?P<target>[^)\s]+)(?P<end>\))", re.M | re.S
)


def relinked(text: str, replace: Callable[[str], str]) -> str:
    """Markdown in which the target of each relative link is replaced."""

    def target(match: re.Match[str]) -> str:
        if not (to := match["target"]) or re.match(r"[a-z]+:|#", to):
            return match[0]
        return f"{match['text']}{replace(to)}{match['end']}"

    return MARKDOWN.sub(target, text)


def resolved(target: str, source: str) -> tuple[str, str]:
    """The file, relative to the repository, to which a link in `source` leads, and its anchor."""
    path, _, anchor = target.partition("#")
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), unquote(path))), anchor


def between(page: str, other: str, anchor: str = "") -> str:
    """The link from one page to another one."""
    relative = posixpath.relpath(f"{other}.md", posixpath.dirname(page) or ".")
    return relative + (f"#{anchor}" if anchor else "")


# ---- the finished site

ATTRIBUTE = re.compile(r"<(\w+)\b[^>]*?\s(href|src|action)=\"([^\"]*)\"")
IDENTIFIER = re.compile(r"\sid=\"([^\"]+)\"")
LOADED = re.compile(r"url\(\s*['\"]?(?:https?:)?//|@import\s+['\"]?(?:url\()?(?:https?:)?//")


def broken_links(site: Path) -> list[str]:
    """What is wrong with the links in the folder `site`: no such page, no such anchor, loaded from elsewhere."""
    pages = {path: path.read_text(encoding="utf-8") for path in sorted(site.rglob("*.html"))}
    anchors = {path: {unescape(name) for name in IDENTIFIER.findall(text)} for path, text in pages.items()}
    problems = [
        f"{path.relative_to(site)}: {p}" for path, text in pages.items() for p in _problems(path, text, anchors)
    ]
    for path in sorted(site.rglob("*.css")):
        if LOADED.search(path.read_text(encoding="utf-8")):
            problems.append(f"{path.relative_to(site)}: loads from elsewhere")
    for path in sorted(site.rglob("*.md")):
        problems += [f"{path.relative_to(site)}: no {p}" for p in _absent(path)]
    return problems


def _problems(path: Path, text: str, anchors: Mapping[Path, set[str]]) -> Iterator[str]:
    for tag, attribute, value in dict.fromkeys(ATTRIBUTE.findall(text)):
        target, _, anchor = unescape(value).partition("#")
        if re.match(r"(https?:)?//", target):
            if tag != "a":
                yield f"<{tag}> loads {target}"
        elif not re.match(r"data:|mailto:|javascript:", target):
            file = Path(os.path.normpath(path.parent / unquote(target.partition("?")[0]))) if target else path
            if not file.exists():
                yield f"no {value}"
            elif anchor and attribute == "href" and file in anchors and unquote(anchor) not in anchors[file]:
                yield f"no anchor {value}"


def _absent(path: Path) -> Iterator[str]:
    for match in MARKDOWN.finditer(path.read_text(encoding="utf-8")):
        target = (match["target"] or "").partition("#")[0]
        if target and not re.match(r"[a-z]+:", target) and not (path.parent / unquote(target)).exists():
            yield target
