"""Makes the screenshots of the web page in docs/images, from a real server and a real browser.

    python docs/screenshots.py

Needs Debian's chromium (and fonts-inter, for the same letters) and playwright. The pictures that are shown are drawn
here, so that nobody's photo is in the repository.
"""

import contextlib
import io
import math
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFilter
from playwright.sync_api import sync_playwright

IMAGES = Path(__file__).parent / "images"
WIDTH, HEIGHT = 1200, 900
Colour = tuple[int, int, int]
SHOTS: dict[str, dict[str, Any]] = {
    "page": {"viewport": {"width": 1280, "height": 1040}, "color_scheme": "light", "locale": "en-GB"},
    "page-phone": {
        "viewport": {"width": 390, "height": 844}, "color_scheme": "dark", "locale": "pt-BR",
        "has_touch": True, "is_mobile": True, "device_scale_factor": 2,
    },
}  # fmt: skip


def sky(top: Colour, bottom: Colour, height: int = HEIGHT) -> Image.Image:
    """Return a picture that goes from one colour to another."""
    column = Image.new("RGB", (1, height))
    for y in range(height):
        column.putpixel((0, y), tuple(int(a + (b - a) * y / height) for a, b in zip(top, bottom, strict=True)))
    return column.resize((WIDTH, height))


def airplane() -> Image.Image:
    """Draw an airplane among clouds."""
    image = sky((70, 130, 200), (190, 215, 235))
    draw = ImageDraw.Draw(image)
    draw.ellipse((700, 620, 1100, 760), fill=(235, 240, 245))
    draw.ellipse((100, 100, 420, 200), fill=(225, 235, 245))
    image = image.filter(ImageFilter.GaussianBlur(25))
    draw = ImageDraw.Draw(image)
    draw.polygon([(560, 470), (250, 640), (310, 650), (700, 500)], fill=(170, 176, 186))
    draw.ellipse((190, 390, 1020, 520), fill=(242, 244, 246))
    draw.polygon([(230, 440), (120, 260), (190, 255), (360, 410)], fill=(40, 70, 120))
    draw.polygon([(600, 420), (500, 240), (560, 240), (760, 420)], fill=(205, 210, 218))
    for x in range(380, 920, 45):
        draw.ellipse((x, 430, x + 18, 452), fill=(60, 80, 110))
    draw.polygon([(930, 420), (985, 430), (970, 450), (925, 450)], fill=(50, 60, 80))
    return image


def ship() -> Image.Image:
    """Draw a steamer at sea."""
    image = sky((150, 190, 220), (215, 225, 225))
    image.paste(sky((40, 90, 130), (15, 50, 85), 360), (0, 540))
    draw = ImageDraw.Draw(image)
    draw.polygon([(140, 500), (1080, 500), (960, 650), (230, 650)], fill=(35, 45, 60))
    draw.polygon([(200, 610), (995, 610), (960, 650), (230, 650)], fill=(150, 40, 35))
    draw.rectangle((300, 400, 860, 500), fill=(240, 240, 238))
    draw.rectangle((380, 310, 740, 400), fill=(228, 230, 230))
    draw.rectangle((520, 200, 620, 310), fill=(200, 60, 45))
    draw.rectangle((520, 200, 620, 230), fill=(30, 30, 35))
    for x in range(330, 840, 60):
        draw.ellipse((x, 435, x + 28, 463), fill=(50, 70, 95))
    draw.line((900, 500, 900, 240), fill=(80, 80, 85), width=10)
    draw.line((240, 500, 240, 300), fill=(80, 80, 85), width=8)
    return image


def automobile() -> Image.Image:
    """Draw a red car."""
    image = sky((205, 215, 222), (235, 235, 230))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 640, WIDTH, HEIGHT), fill=(105, 105, 108))
    draw.polygon([(330, 430), (430, 290), (760, 290), (890, 430)], fill=(190, 30, 35))
    draw.rounded_rectangle((110, 420, 1090, 650), 60, fill=(190, 30, 35))
    draw.polygon([(375, 425), (450, 320), (590, 320), (590, 425)], fill=(60, 75, 90))
    draw.polygon([(620, 425), (620, 320), (745, 320), (835, 425)], fill=(60, 75, 90))
    for x in (300, 900):
        draw.ellipse((x - 110, 545, x + 110, 765), fill=(25, 25, 28))
        draw.ellipse((x - 55, 600, x + 55, 710), fill=(190, 192, 196))
    draw.ellipse((1030, 465, 1085, 520), fill=(250, 240, 190))
    return image


def flower() -> Image.Image:
    """Draw a sunflower, which the bundled model does not know."""
    image = sky((90, 150, 80), (40, 90, 50))
    draw = ImageDraw.Draw(image)
    for petal in range(14):
        x, y = (centre + 250 * f(petal * math.tau / 14) for centre, f in ((600, math.cos), (440, math.sin)))
        draw.ellipse((x - 110, y - 110, x + 110, y + 110), fill=(245, 190, 40))
    draw.ellipse((430, 270, 770, 610), fill=(90, 50, 25))
    return image


DRAWINGS: dict[str, Callable[[], Image.Image]] = {
    "holiday-flight.png": airplane, "harbour.png": ship, "IMG_2041.png": automobile, "garden.png": flower,
}  # fmt: skip


def draw_all(folder: Path) -> list[Path]:
    """Write the pictures, and one that is cut off."""
    for name, drawing in DRAWINGS.items():
        drawing().resize((600, 450), Image.Resampling.LANCZOS).save(folder / name)
    whole = (folder / "harbour.png").read_bytes()
    (folder / "download.png").write_bytes(whole[: len(whole) // 2])
    return [folder / name for name in (*DRAWINGS, "download.png")]


@contextlib.contextmanager
def server() -> Iterator[str]:
    """Serve the bundled model on a free port."""
    command = [sys.executable, "-m", "pupila", "serve", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        said = process.stdout.readline() if process.stdout else ""
        found = re.search(r"Listening on (http://\S+)", said)
        yield found[1] if found else sys.exit("the server did not start")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def shoot(browser: Any, url: str, files: list[Path], name: str, context: dict[str, Any]) -> None:
    """Make one screenshot, as WebP, which keeps the file small."""
    held = browser.new_context(**context, reduced_motion="reduce")
    page = held.new_page()
    page.goto(url)
    page.set_input_files("#files", [str(file) for file in files])
    page.locator(".tile[data-state=answered], .tile[data-state=refused]").nth(len(files) - 1).wait_for()
    page.locator(".frame[aria-pressed]").nth(1).click()
    page.mouse.move(1, 1)
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    page.wait_for_timeout(1000)
    with Image.open(io.BytesIO(page.screenshot())) as full:
        full.convert("RGB").save(IMAGES / f"{name}.webp", quality=88, method=6)
    held.close()


def main() -> None:
    """Make them all."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, server() as url, sync_playwright() as playwright:
        path = shutil.which("chromium") or sys.exit("chromium is not installed")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        files = draw_all(Path(folder))
        for name, context in SHOTS.items():
            shoot(browser, url, files, name, context)
            print(f"{name}.webp: {(IMAGES / f'{name}.webp').stat().st_size} bytes")
        browser.close()


if __name__ == "__main__":
    main()
