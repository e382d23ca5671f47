"""Draws the sample photos in examples/photos, and the small ones of the web page: things that the bundled model knows.

`python tools/draw_photos.py` writes them anew. They are drawings of this project, free to use under its licence.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "examples" / "photos"
PAGE = ROOT / "src" / "pupila" / "server" / "api" / "page"
WIDTH, HEIGHT = 640, 480
SCALE = 2
"""Everything is drawn larger and scaled down, for smooth edges."""

Colour = tuple[int, int, int]
Points = list[tuple[float, float]]


class Canvas:
    """A picture to draw on, with a soft light from above on every shape."""

    def __init__(self, top: Colour, horizon: Colour, ground: Colour, low: Colour, line: float, seed: int) -> None:
        self.draws = np.random.default_rng(seed)
        rows = np.linspace(0, 1, HEIGHT * SCALE)[:, None, None]
        sky = np.array(top) + (np.array(horizon) - top) * np.clip(rows / line, 0, 1)
        land = np.array(ground) + (np.array(low) - ground) * np.clip((rows - line) / (1 - line), 0, 1)
        pixels = np.where(rows < line, sky, land) * np.ones((1, WIDTH * SCALE, 1))
        pixels += (rows >= line) * self.texture(14, 3) + (rows < line) * self.texture(5, 40)
        self.image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))

    def texture(self, strength: float, size: int) -> np.ndarray:
        """Return smooth noise [H, W, 1]."""
        noise = self.draws.normal(0, 1, (HEIGHT * SCALE // size + 1, WIDTH * SCALE // size + 1))
        grey = Image.fromarray(noise.astype(np.float32)).resize((WIDTH * SCALE, HEIGHT * SCALE), Image.BICUBIC)
        return strength * np.asarray(grey)[..., None]

    def shape(self, points: Points, colour: Colour, light: float = 45, fur: float = 10) -> None:
        """Draw a closed smooth curve through the points, lit from above."""
        mask = Image.new("L", self.image.size)
        ImageDraw.Draw(mask).polygon([(x * SCALE, y * SCALE) for x, y in smooth(points)], fill=255)
        self._fill(mask, colour, light, fur)

    def ellipse(
        self, x: float, y: float, a: float, b: float, colour: Colour, light: float = 45, fur: float = 8
    ) -> None:
        """Draw an ellipse around (x, y)."""
        mask = Image.new("L", self.image.size)
        ImageDraw.Draw(mask).ellipse([(x - a) * SCALE, (y - b) * SCALE, (x + a) * SCALE, (y + b) * SCALE], fill=255)
        self._fill(mask, colour, light, fur)

    def limb(self, points: Points, width: float, colour: Colour, light: float = 30, fur: float = 8) -> None:
        """Draw a thick line."""
        mask = Image.new("L", self.image.size)
        draw = ImageDraw.Draw(mask)
        draw.line([(x * SCALE, y * SCALE) for x, y in points], fill=255, width=int(width * SCALE), joint="curve")
        for x, y in points:
            r = width / 2
            draw.ellipse([(x - r) * SCALE, (y - r) * SCALE, (x + r) * SCALE, (y + r) * SCALE], fill=255)
        self._fill(mask, colour, light, fur)

    def _fill(self, mask: Image.Image, colour: Colour, light: float, fur: float) -> None:
        box = mask.getbbox()
        if box is None:
            return
        rows = np.linspace(1, -1, box[3] - box[1])
        shade = np.zeros((mask.height, 1, 1))
        shade[box[1] : box[3], 0, 0] = light * rows
        pixels = np.array(colour) + shade + self.texture(fur, 4) + np.zeros((1, mask.width, 1))
        layer = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        self.image.paste(layer, (0, 0), mask.filter(ImageFilter.GaussianBlur(SCALE)))

    def shadow(self, x: float, y: float, a: float, b: float) -> None:
        """Darken the ground under something."""
        mask = Image.new("L", self.image.size)
        ImageDraw.Draw(mask).ellipse([(x - a) * SCALE, (y - b) * SCALE, (x + a) * SCALE, (y + b) * SCALE], fill=120)
        dark = ImageChops.multiply(self.image, Image.new("RGB", self.image.size, (90, 90, 90)))
        self.image.paste(dark, (0, 0), mask.filter(ImageFilter.GaussianBlur(10 * SCALE)))

    def save(self, name: str) -> None:
        """Write the picture as a JPEG, and half as wide as a WebP for the page."""
        photo = FOLDER / f"{name}.jpg"
        self.image.resize((WIDTH, HEIGHT), Image.LANCZOS).save(photo, quality=88)
        small = Image.open(photo).resize((WIDTH // 2, HEIGHT // 2), Image.LANCZOS)
        small.save(PAGE / f"example-{name}.webp", quality=72, method=6)


def smooth(points: Points, steps: int = 12) -> Points:
    """Return a closed Catmull-Rom curve through the points."""
    p = np.array(points)
    before, after, next_ = np.roll(p, 1, 0), np.roll(p, -1, 0), np.roll(p, -2, 0)
    t = np.linspace(0, 1, steps, endpoint=False)[:, None, None]
    curve = 0.5 * (
        2 * p + (after - before) * t + (2 * before - 5 * p + 4 * after - next_) * t**2
        + (3 * p - before - 3 * after + next_) * t**3
    )  # fmt: skip
    return [tuple(point) for point in curve.transpose(1, 0, 2).reshape(-1, 2)]


def horse() -> None:
    """A brown horse on a meadow, from its side."""
    c = Canvas((150, 185, 225), (205, 220, 230), (110, 140, 70), (80, 115, 50), 0.5, 1)
    coat, dark, mane = (128, 78, 42), (98, 58, 30), (48, 30, 20)
    c.shadow(330, 432, 190, 18)
    for x, knee, foot in ((255, 262, 250), (428, 440, 424)):
        c.limb([(x, 300), (knee, 365), (foot, 428)], 22, dark)
    c.shape(
        [
            (205, 205),
            (250, 190),
            (330, 200),
            (410, 188),
            (455, 205),
            (470, 250),
            (450, 300),
            (400, 305),
            (330, 318),
            (255, 312),
            (210, 290),
            (195, 245),
        ],
        coat,
    )
    c.shape([(462, 208), (490, 230), (496, 290), (486, 350), (478, 300), (468, 250)], mane, 10)
    c.shape([(200, 260), (165, 200), (140, 130), (160, 95), (190, 110), (225, 160), (268, 200), (260, 250)], coat)
    c.shape(
        [(130, 92), (165, 82), (185, 105), (170, 140), (125, 180), (95, 200), (78, 190), (82, 168), (105, 135)], coat
    )
    c.shape([(150, 92), (155, 62), (170, 88)], dark, 10)
    c.shape([(165, 80), (195, 100), (230, 150), (272, 196), (250, 200), (212, 165), (180, 118)], mane, 10)
    c.ellipse(132, 118, 5, 5, (20, 15, 12), 5, 0)
    c.ellipse(88, 182, 4, 3, (30, 20, 16), 5, 0)
    for x, knee, foot in ((225, 218, 222), (452, 468, 456)):
        c.limb([(x, 290), (knee, 362), (foot, 428)], 25, coat)
        c.limb([(foot, 424), (foot - 3, 434)], 26, (40, 30, 25), 5)
    c.save("horse")


def frog() -> None:
    """A green frog on wet ground, from its side."""
    c = Canvas((92, 84, 60), (120, 108, 78), (112, 98, 70), (84, 72, 50), 0.42, 2)
    skin, light, dark, pale = (112, 128, 58), (128, 147, 66), (69, 79, 35), (188, 186, 140)
    c.shadow(330, 408, 240, 30)
    c.limb([(250, 350), (232, 400), (196, 420)], 22, dark)
    c.limb([(430, 380), (500, 415), (560, 420)], 20, dark)
    back = [(96, 262), (120, 222), (180, 186), (250, 172), (330, 176), (420, 214), (492, 280), (520, 348)]
    belly = [(480, 392), (390, 404), (290, 402), (220, 384), (170, 340), (120, 304)]
    c.shape(back + belly, skin, 50, 14)
    c.shape(
        [(108, 286), (150, 306), (210, 330), (250, 372), (330, 398), (250, 398), (206, 380), (160, 338), (116, 304)],
        pale,
        18,
    )
    c.limb([(236, 192), (330, 206), (420, 248), (488, 318)], 9, light, 10, 6)
    c.shape(
        [(350, 330), (390, 276), (452, 268), (506, 310), (530, 362), (490, 404), (420, 408), (366, 384)], skin, 48, 14
    )
    c.limb([(372, 380), (440, 408), (520, 402)], 30, skin)
    c.limb([(510, 398), (470, 424), (400, 430), (356, 428)], 17, light)
    c.limb([(248, 330), (262, 376), (232, 420)], 32, skin)
    for toe in (198, 222, 248):
        c.limb([(232, 416), (toe, 432)], 11, light)
    c.limb([(98, 272), (150, 290), (214, 286), (246, 268)], 5, dark, 5, 3)
    for x, y, r in (
        (300, 200, 14), (350, 232, 17), (404, 226, 13), (330, 266, 15), (390, 300, 16), (446, 300, 18), (470, 346, 16),
        (420, 350, 13), (300, 310, 13), (140, 232, 9), (165, 262, 8), (256, 208, 9), (276, 246, 19),
    ):  # fmt: skip
        c.ellipse(x, y, r, r * 0.8, dark, 8)
    c.ellipse(276, 246, 12, 10, skin, 10)
    c.ellipse(206, 190, 34, 31, skin, 40)
    c.ellipse(204, 188, 24, 22, (196, 158, 52), 22)
    c.ellipse(203, 189, 16, 10, (16, 14, 10), 3, 0)
    c.ellipse(197, 181, 5, 4, (250, 250, 240), 0, 0)
    c.save("frog")


def dog() -> None:
    """The head and chest of a brown and white dog."""
    c = Canvas((120, 150, 95), (140, 165, 110), (100, 130, 75), (80, 105, 60), 0.5, 3)
    coat, white, dark = (150, 100, 55), (235, 228, 215), (105, 65, 35)
    c.shape([(180, 480), (190, 390), (240, 330), (320, 320), (400, 330), (450, 390), (465, 480)], coat)
    c.shape([(260, 480), (270, 380), (320, 350), (370, 380), (382, 480)], white, 25)
    c.shape(
        [
            (215, 190),
            (245, 110),
            (320, 85),
            (395, 110),
            (425, 190),
            (415, 270),
            (380, 330),
            (320, 355),
            (260, 330),
            (225, 270),
        ],
        coat,
    )
    for side in (-1, 1):
        c.shape(
            [(320 + side * x, y) for x, y in ((75, 110), (120, 105), (150, 170), (150, 260), (115, 285), (95, 220))],
            dark,
        )
    c.shape(
        [(300, 95), (340, 95), (345, 180), (385, 250), (375, 320), (320, 345), (265, 320), (255, 250), (295, 180)],
        white,
        25,
    )
    for side in (-1, 1):
        c.ellipse(320 + side * 55, 195, 17, 16, (60, 35, 20), 10, 0)
        c.ellipse(320 + side * 55, 195, 10, 11, (15, 10, 8), 3, 0)
        c.ellipse(320 + side * 51, 190, 4, 4, (250, 250, 245), 0, 0)
    c.shape([(290, 240), (320, 232), (350, 240), (345, 268), (320, 282), (295, 268)], (25, 20, 20), 15, 0)
    c.limb([(320, 280), (320, 305)], 4, (60, 45, 40), 3)
    c.limb([(280, 305), (300, 316), (320, 306), (340, 316), (360, 305)], 4, (70, 50, 45), 3)
    c.shape([(300, 314), (340, 314), (338, 350), (320, 362), (302, 350)], (215, 110, 115), 15, 3)
    c.save("dog")


def ship() -> None:
    """A cargo ship at sea."""
    c = Canvas((120, 165, 215), (200, 220, 235), (60, 105, 140), (30, 70, 105), 0.58, 4)
    c.shape(
        [(70, 268), (80, 262), (500, 262), (590, 240), (560, 320), (530, 345), (110, 345), (85, 320)],
        (140, 40, 35),
        25,
        4,
    )
    c.shape([(78, 262), (80, 258), (500, 258), (588, 238), (580, 264), (500, 276), (80, 276)], (45, 50, 60), 10, 3)
    for x, y, colour in ((110, 150, (235, 235, 230)), (110, 190, (235, 235, 230))):
        c.shape([(x, y), (x + 95, y), (x + 95, y + 75), (x, y + 75)], colour, 12, 2)
    c.limb([(140, 100), (140, 150)], 26, (200, 120, 40), 10)
    for row in range(2):
        for column in range(6):
            colour = [(60, 110, 160), (190, 90, 50), (90, 130, 80), (200, 190, 170)][(row + column) % 4]
            x, y = 230 + 46 * column, 225 - 34 * row
            c.shape([(x, y), (x + 42, y), (x + 42, y + 32), (x, y + 32)], colour, 12, 3)
    for x in range(118, 200, 18):
        c.ellipse(x, 172, 4, 5, (40, 50, 60), 2, 0)
    c.limb([(60, 348), (580, 348)], 8, (200, 215, 225), 5, 20)
    c.save("ship")


def airplane() -> None:
    """A white airliner against the sky."""
    c = Canvas((70, 130, 205), (150, 190, 230), (150, 190, 230), (185, 210, 235), 0.9, 5)
    white, grey = (238, 240, 243), (175, 182, 192)
    c.shape([(430, 205), (510, 100), (545, 100), (515, 215)], (40, 80, 150), 15, 2)
    c.shape([(330, 225), (420, 130), (445, 132), (395, 235)], grey, 20, 2)
    c.shape(
        [
            (70, 262),
            (95, 238),
            (160, 222),
            (400, 206),
            (540, 205),
            (560, 214),
            (440, 250),
            (250, 282),
            (120, 285),
            (82, 277),
        ],
        white,
        50,
        2,
    )
    c.shape([(290, 255), (380, 245), (480, 350), (450, 358)], grey, 20, 2)
    c.shape([(480, 215), (535, 212), (580, 250), (560, 255)], grey, 20, 2)
    c.ellipse(352, 300, 30, 14, (120, 128, 140), 25, 2)
    for x in range(150, 440, 16):
        c.ellipse(x, 245 - (x - 150) * 0.08, 3, 4, (50, 60, 75), 2, 0)
    c.shape([(88, 246), (110, 236), (118, 244), (96, 252)], (40, 50, 65), 5, 0)
    c.save("airplane")


def main() -> None:
    """Write all of them."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for draw in (horse, frog, dog, ship, airplane):
        draw()


if __name__ == "__main__":
    main()
