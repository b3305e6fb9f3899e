"""Take the pictures of docs/tutorial.md from the demo's runs: `make demo` first.

    python scripts/tutorial_pictures.py [--logs logs]

Needs Chromium (Debian: apt-get install chromium), which shows the reports as a reader sees them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts.open_tensorboard import free_port  # noqa: E402  the checkout has to be found first
from tests.browser import CHROMIUM, Browser, chromium  # noqa: E402  the checkout has to be found first

IMAGES = ROOT / "docs/images"
CURVES = "%5E(train%7Cval)_(iou%7Closs)%24"
"""Of the curves in TensorBoard those whose name fits ^(train|val)_(iou|loss)$."""
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


@contextmanager
def tensorboard(logs: Path) -> Iterator[str]:
    """Serve the runs, and yield the address once it answers."""
    port = free_port()
    server = ["tensorboard.main", "--logdir", str(logs), "--host", "localhost", "--port", str(port)]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, "-m", *server], **quiet) as process:
        try:
            while process.poll() is None:
                with suppress(OSError), urllib.request.urlopen(f"http://localhost:{port}/data/runs") as answer:
                    if json.load(answer):
                        break
                time.sleep(1)
            else:
                sys.exit(f"TensorBoard ended with {process.returncode}; make tensorboard shows why.")
            yield f"http://localhost:{port}/?darkMode=false&tagFilter={CURVES}#timeseries"
        finally:
            process.terminate()


def shoot_tensorboard(browser: Browser, address: str, folder: Path) -> Image.Image:
    """Show curves in TensorBoard, which draws them some seconds after its page has loaded."""
    browser.show(address, width=WIDTH, height=1040)
    time.sleep(10)
    browser.evaluate("[...document.querySelectorAll('button')].find(b => b.innerText.endsWith('Settings')).click()")
    time.sleep(5)
    browser.screenshot(folder / "page.png")
    with Image.open(folder / "page.png") as picture:
        return picture.convert("RGB")


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
        with tensorboard(given.logs / "train") as address:
            save(shoot_tensorboard(browser, address, Path(scratch)), "tensorboard")


def save(picture: Image.Image, name: str) -> None:
    """Write a picture of the tutorial and name it."""
    path = IMAGES / f"tutorial_{name}.webp"
    picture.save(path, quality=80, method=6)
    print(f"{path.relative_to(ROOT)}  {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
