"""A release: the template of new projects is kept under its version, and the next version begins.

    python3 library/release.py             keep this version's template in releases.zip, close its section in CHANGELOG
    python3 library/release.py --next 1.0  raise the version everywhere, and begin its section of CHANGELOG

Commit after each. `notebento update` compares the templates of two releases, so a released one never changes: a test
fails when the files of a new project change and the version does not.
"""

import re
import sys
from pathlib import Path

LIBRARY = Path(__file__).resolve().parent
ROOT = LIBRARY.parent
sys.path.insert(0, str(LIBRARY / "src"))

import notebento  # noqa: E402
from notebento.pipeline.template import RELEASES, collect, pack_history, unpack_history  # noqa: E402

VERSION = r"(\d[\w.]*)"
PLACES = {
    "settings.ini": rf"(?m)^version = {VERSION}$",
    "pyproject.toml": rf'(?m)^version = "{VERSION}"$|"notebento=={VERSION}"',
    "library/settings.ini": rf"(?m)^version = {VERSION}$",
    "library/pyproject.toml": rf'(?m)^version = "{VERSION}"$',
    "library/src/notebento/__init__.py": rf'(?m)^__version__ = "{VERSION}"$',
}


def main(arguments: list[str]) -> str:
    """What was done, in a sentence."""
    if not arguments:
        return keep()
    if len(arguments) == 2 and arguments[0] == "--next" and re.fullmatch(r"\d+(\.\d+)+(rc\d+)?", arguments[1]):
        return begin(arguments[1])
    raise SystemExit(__doc__)


def keep() -> str:
    """Add the template of this version to the archive."""
    version, archive = notebento.__version__, ROOT / RELEASES
    known, ours = unpack_history(archive.read_bytes()) if archive.is_file() else {}, collect(ROOT)
    if known.get(version, ours) != ours:
        changed = [path for path in sorted(known[version].keys() | ours) if known[version].get(path) != ours.get(path)]
        raise SystemExit(
            f"{version} is released, and its template differs: {', '.join(changed)}\n  fix: release.py --next X"
        )
    archive.write_bytes(pack_history(known | {version: ours}))
    log = ROOT / "CHANGELOG.md"
    text = log.read_text(encoding="utf-8").replace(f"## {version} (unreleased)", f"## {version}", 1)
    log.write_text(text, encoding="utf-8")
    return f"{version}: {len(ours)} files of its template are kept in {RELEASES}, with those of {len(known)} before"


def begin(version: str) -> str:
    """Write the version wherever it stands."""
    for path, pattern in PLACES.items():
        place = ROOT / path
        text = re.sub(pattern, lambda found: found[0].replace(notebento.__version__, version), place.read_text("utf-8"))
        place.write_text(text, encoding="utf-8")
    log = ROOT / "CHANGELOG.md"
    log.write_text(log.read_text("utf-8").replace("## ", f"## {version} (unreleased)\n\n## ", 1), encoding="utf-8")
    return f"{version} begins in {', '.join(PLACES)} and CHANGELOG.md; pip install -e library -e . takes note of it"


if __name__ == "__main__":
    print(main(sys.argv[1:]))
