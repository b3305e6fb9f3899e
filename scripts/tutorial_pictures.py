"""Take the pictures of docs/tutorial.md from the demo's runs: `make demo` first.

    python scripts/tutorial_pictures.py [--logs logs]

Needs Chromium (Debian: apt-get install chromium), which shows the reports as a reader sees them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageOps

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.browser import CHROMIUM, Browser, chromium  # noqa: E402  the checkout has to be found first

IMAGES = ROOT / "docs/images"
WIDTH, MARGIN = 1280, 16
"""Of the browser's page in pixels, and of what is left around a section."""
SHOTS = {
    "train": ("train/demo/report.html", "Epoch by epoch", 900),
    "eval": ("eval/demo/report.html", "Chips", 840),
    "map": ("predict/demo/map_report.html", "The map", 880),
    "uncertainty": ("predict/demo/map_report.html", "How sure the network is", 1000),
}
"""Of each picture the report, the section that it shows, and how much of it at most, in pixels."""


def shoot(browser: Browser, page: Path, heading: str, height: int, folder: Path) -> Image.Image:
    """Show a report and return the part of it that begins with a heading."""
    browser.show(page, width=WIDTH)
    section = f"[...document.querySelectorAll('section')].find(s => s.querySelector('h2').textContent == '{heading}')"
    place = f"(r => [r.left, r.top + scrollY, r.right, r.bottom + scrollY])({section}.getBoundingClientRect())"
    left, top, right, bottom = (int(edge) for edge in browser.evaluate(place))
    whole = folder / "page.png"
    browser.screenshot(whole)
    with Image.open(whole) as picture:
        part = (left - MARGIN, top + MARGIN, right + MARGIN, min(bottom, top + height))
        shot = picture.convert("RGB").crop(part)
    # A section with one narrow picture has nothing on its right.
    _, _, filled, _ = ImageOps.invert(shot).getbbox() or (0, 0, shot.width, 0)
    return shot.crop((0, 0, min(shot.width, filled + MARGIN), shot.height))


def main() -> None:
    """Write all pictures as WebP."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", type=Path, default=ROOT / "logs", help="folder of the runs")
    parser.add_argument("--chips", type=Path, default=ROOT / "data/demo/chips", help="the demo's data folder")
    given = parser.parse_args()
    missing = [given.logs / page for page, _, _ in SHOTS.values() if not (given.logs / page).is_file()]
    if CHROMIUM is None or missing:
        sys.exit(f"There is no {missing[0] if missing else 'Chromium'}; run make demo, and install Chromium.")
    with Image.open(given.chips / "overview.png") as picture:
        small = picture.convert("RGB").resize((1200, round(1200 * picture.height / picture.width)))
    save(small, "overview")
    with tempfile.TemporaryDirectory() as scratch, chromium(Path(scratch) / "profile") as browser:
        for name, (page, heading, height) in SHOTS.items():
            save(shoot(browser, given.logs / page, heading, height, Path(scratch)), name)


def save(picture: Image.Image, name: str) -> None:
    """Write a picture of the tutorial and name it."""
    path = IMAGES / f"tutorial_{name}.webp"
    picture.save(path, quality=80, method=6)
    print(f"{path.relative_to(ROOT)}  {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
