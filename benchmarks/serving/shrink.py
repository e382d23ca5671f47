"""Does a photo get the same answer when the page scales it down before upload? Asks a real server from a real Chromium.

    pupila serve &
    python benchmarks/serving/shrink.py cifar10 [PHOTO ...] [--pictures 200]

Small pictures of a data set's test split are blown up to 2048 x 2048 pixels with a camera's noise, since a photo's fine
grain is what scaling may treat differently; photos given as files are cut into random crops of at least 300 pixels a
side. Each goes to the server whole, and as the copy that `page/shrink.js` makes of it. Needs chromium and playwright.
"""

import argparse
import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import sync_playwright

from pupila.data import load_dataset

SMALL = 32
"""Pixels a side of CIFAR-10's pictures; others are brought to that."""
COMPARE = """
async (sizes) => {
  const { predict } = await import("/page/api.js");
  const { smaller } = await import("/page/shrink.js");
  const found = [];
  for (const file of document.querySelector("#measured").files) {
    const row = { name: file.name, bytes: file.size, whole: (await predict([file], 60)).predictions[0] };
    for (const size of sizes) {
      const copy = await smaller(file, size);
      row[size] = { bytes: copy.size, ...(await predict([copy], 60)).predictions[0] };
    }
    found.push(row);
  }
  return found;
}
"""


def blown_up(data: str, count: int, folder: Path, random_state: random.Random) -> list[Path]:
    """Write `count` pictures of the data set's test split as noisy 2048 x 2048 JPEGs."""
    test = load_dataset(data, SMALL).test
    if test is None:
        raise SystemExit("The data set needs a test split.")
    noise = np.random.default_rng(0)
    made = []
    for number, row in enumerate(random_state.sample(range(len(test)), count)):
        small = Image.fromarray(test.images[row])
        large = np.asarray(small.resize((2048, 2048), Image.Resampling.BICUBIC), np.float32)
        grain = noise.normal(0, 6, large.shape).astype(np.float32)
        made.append(folder / f"up-{number}.jpg")
        Image.fromarray(np.clip(large + grain, 0, 255).astype(np.uint8)).save(made[-1], quality=92)
    return made


def crops(photos: list[Path], count: int, folder: Path, random_state: random.Random) -> list[Path]:
    """Write random crops of photos as JPEGs."""
    made = []
    for number in range(count if photos else 0):
        photo = Image.open(photos[number % len(photos)]).convert("RGB")
        width, height = (random_state.randint(min(300, side), side) for side in photo.size)
        left, top = random_state.randint(0, photo.width - width), random_state.randint(0, photo.height - height)
        made.append(folder / f"crop-{number}.jpg")
        photo.crop((left, top, left + width, top + height)).save(made[-1], quality=92)
    return made


def report(rows: list[dict[str, Any]], sizes: list[int]) -> None:
    """Print how often the answer differs, and by how much."""
    for size in sizes:
        pairs = [(row["whole"], row[str(size)]) for row in rows]
        other = sum(a["category"] != b["category"] for a, b in pairs)
        unknown = sum(bool(a.get("unknown")) != bool(b.get("unknown")) for a, b in pairs)
        shown = sum(round(100 * a["confidence"]) != round(100 * b["confidence"]) for a, b in pairs)
        moved = np.array([abs(a["confidence"] - b["confidence"]) for a, b in pairs])
        share = sum(row[str(size)]["bytes"] for row in rows) / sum(row["bytes"] for row in rows)
        print(
            f"{size:5} px: n = {len(rows)}, other class {other}, other 'unknown' {unknown}, other percentage {shown};"
        )
        print(f"         confidence moves by {moved.mean():.4f}, at most {moved.max():.3f}; {share:.1%} of the bytes")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("photos", type=Path, nargs="*")
    parser.add_argument("--pictures", type=int, default=200, help="of each kind")
    parser.add_argument("--url", default="http://127.0.0.1:3000/", help="a server that runs already")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    given = parser.parse_args()
    random_state, sizes = random.Random(0), [256, 1024]
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        kinds = {"blown up": blown_up(given.data, given.pictures, Path(folder), random_state)}
        kinds["crops"] = crops(given.photos, given.pictures, Path(folder), random_state)
        browser = playwright.chromium.launch(executable_path=given.chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(given.url)
        page.evaluate("document.body.append(Object.assign(document.createElement('input'), "
                      "{type: 'file', multiple: true, id: 'measured'}))")  # fmt: skip
        for kind, files in kinds.items():
            rows: list[dict[str, Any]] = []
            for start in range(0, len(files), 20):
                page.set_input_files("#measured", [str(file) for file in files[start : start + 20]])
                rows += page.evaluate(COMPARE, sizes)
            if rows:
                print(kind)
                report(rows, sizes)
        browser.close()


if __name__ == "__main__":
    main()
