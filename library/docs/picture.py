"""The picture of a report in the README of the repository, taken with Chromium: python library/docs/picture.py [RUN]"""

import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image  # matplotlib needs it, too

from notebento.pipeline.history import find_run

PICTURE, SIZE, SCALE = Path(__file__).with_name("report.webp"), (1060, 940), 1.5


def screenshot(page: Path) -> bytes:
    """The first screen of `page` as a PNG."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("the picture is taken with chromium, which is not on this machine")
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder, "shot.png")
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={folder}"]
        size = [f"--window-size={SIZE[0]},{SIZE[1]}", f"--force-device-scale-factor={SCALE}", f"--screenshot={shot}"]
        subprocess.run([browser, *options, *size, page.as_uri()], check=True, capture_output=True, timeout=120)
        return shot.read_bytes()


def main(run: str = "latest") -> None:
    """Take the picture of the report of `run`, and write it beside this file."""
    image = Image.open(io.BytesIO(screenshot(find_run(run) / "report.html"))).convert("RGB")
    image.save(PICTURE, quality=80, method=6)
    print(f"{PICTURE}: {PICTURE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(*sys.argv[1:])
