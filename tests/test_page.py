"""The web page in a real Chromium, before a real server: what people do with it, and what they get to see."""

import contextlib
import itertools
import json
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from page_kit import categories, choose, drop, opened, settle, visiting
from PIL import Image
from proxy_kit import NGINX, nginx
from server_kit import CLASSES, COLOURS, Running, launch, picture, serving, signal_worker, wait_for_url, write_model

from pupila.feedback import Store
from pupila.models import bundled_model
from pupila.server.api.auth import new_key
from pupila.server.api.pages import FOLDER

GREY = (128, 128, 128)
"""A colour that the tests' model calls unknown."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "colours.onnx", unknown_threshold=-2.0)


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(model, tmp_path_factory.mktemp("log") / "log", '{"port": 0, "workers": 1}') as running:
        yield running


@pytest.fixture
def pictures(tmp_path: Path) -> dict[str, Path]:
    """A file of each colour, one that is cut off, one that is no picture, one that looks like none of the colours."""
    files = {colour: tmp_path / f"{colour}.png" for colour in CLASSES}
    for colour, file in files.items():
        image = Image.new("RGB", (160, 120), COLOURS[colour])
        image.paste(tuple(value * 4 // 5 for value in COLOURS[colour]), (0, 0, 80, 60))  # so that the map is not flat
        image.save(file)
    whole = picture("red", "JPEG", (640, 480))
    for name, content in (("cut", whole[: len(whole) // 2]), ("notes", b"These are words."), ("empty", b"")):
        files[name] = tmp_path / f"{name}.jpg"
        files[name].write_bytes(content)
    files["unknown"] = tmp_path / "unknown.png"
    Image.new("RGB", (90, 120), GREY).save(files["unknown"])
    return files


def texts(page: Any, selector: str) -> list[str]:
    return [element.inner_text() for element in page.locator(selector).all()]


def test_many_files_are_answered_and_the_bad_among_them_say_why(
    browser: Any, server: Running, tmp_path: Path, pictures: dict[str, Path]
) -> None:
    files, expected = [], []
    for number, colour in zip(range(24), itertools.cycle(CLASSES), strict=False):
        files.append(tmp_path / f"{number}.jpg")
        files[-1].write_bytes(picture(colour, "JPEG", (50, 40)))
        expected.append(colour)
    for place, name in ((3, "cut"), (9, "notes"), (20, "empty")):
        files.insert(place, pictures[name])
        expected.insert(place, "")
    with opened(browser, server.url) as page:
        choose(page, files)
        settle(page, 27)
        assert categories(page) == [name or None for name in expected]
        assert texts(page, ".file") == [file.name for file in files]
        reasons = texts(page, ".tile[data-state=refused] .body")
        assert all("Cannot be used" in reason for reason in reasons)
        assert ["cut off" in reasons[0], "no picture" in reasons[1], "empty" in reasons[2]] == [True] * 3
        assert page.locator("#progress").inner_text() == "24 pictures answered, 3 cannot be used"


def test_an_answer_is_shown_and_heard_with_its_three_most_probable_classes_as_the_server_gives_them(
    browser: Any, server: Running, pictures: dict[str, Path]
) -> None:
    told = server.predict(pictures["green"].read_bytes(), query="?top=3").json()["predictions"][0]["top"]
    with opened(browser, server.url) as page:
        choose(page, [pictures["green"]])
        settle(page, 1)
        assert texts(page, ".body .name") == [choice["category"] for choice in told]
        assert texts(page, ".body .value") == [f"{round(100 * choice['confidence'])}%" for choice in told]
        bars = page.locator(".fill").evaluate_all("all => all.map(one => Number(one.style.getPropertyValue('--part')))")
        assert bars == pytest.approx([choice["confidence"] for choice in told])
        live = page.get_by_role("status").filter(has_text="green.png: green,")  # what screen readers hear
        live.wait_for(state="attached")
        assert live.inner_text() == f"green.png: green, {round(100 * told[0]['confidence'])}%"


def test_pictures_can_be_pasted(browser: Any, server: Running) -> None:
    with opened(browser, server.url) as page:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.evaluate("""async () => {
            const canvas = new OffscreenCanvas(40, 30);
            const pen = canvas.getContext("2d");
            pen.fillStyle = "rgb(20, 20, 200)";
            pen.fillRect(0, 0, 40, 30);
            const blob = await canvas.convertToBlob({ type: "image/png" });
            await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
        }""")
        page.keyboard.press("Control+V")
        settle(page, 1)
        assert categories(page) == ["blue"]


def test_pictures_and_folders_can_be_dropped(browser: Any, server: Running, pictures: dict[str, Path]) -> None:
    folder = pictures["red"].parent / "folder" / "inner"
    folder.mkdir(parents=True)
    (folder / "white.png").write_bytes(pictures["white"].read_bytes())
    (folder / "notes.txt").write_text("passed over: in a folder, only pictures are meant")
    with opened(browser, server.url) as page:
        drop(page, [pictures["blue"], pictures["red"]])
        settle(page, 2)
        drop(page, [folder.parent], ".answers")
        settle(page, 3)
        assert categories(page) == ["blue", "red", "white"]


UNREADABLE = """() => {
    const { webkitGetAsEntry } = DataTransferItem.prototype;
    DataTransferItem.prototype.webkitGetAsEntry = function () {
        const entry = webkitGetAsEntry.call(this);
        if (entry.isFile) {
            const every = Object.getPrototypeOf(entry), { file } = every;
            every.file = function (take, fail) {
                if (this.name === "broken.png") fail(new DOMException("The disk is bad.", "NotReadableError"));
                else file.call(this, take, fail);
            };
        }
        return entry;
    };
}"""
"""What a bad disk does to one file: root, which runs these tests in many places, may read all others."""


@pytest.mark.parametrize(
    ("locale", "told"),
    [
        ("en-GB", "One file could not be read and was left out."),
        ("pt-BR", "Um arquivo não pôde ser lido e ficou de fora."),
    ],
)
def test_file_that_cannot_be_read_costs_none_of_the_others_and_is_told_of(
    browser: Any, server: Running, tmp_path: Path, locale: str, told: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "alone.png").write_bytes(picture("red"))
    for name in ("broken", "whole"):
        (tmp_path / "folder" / f"{name}.png").write_bytes(picture("blue"))
    with opened(browser, server.url, locale=locale) as page:
        page.evaluate(UNREADABLE)
        drop(page, [tmp_path / "alone.png", tmp_path / "folder"])
        settle(page, 2)
        assert categories(page) == ["red", "blue"]
        assert page.get_by_role("alert").inner_text() == told
        choose(page, [tmp_path / "alone.png"])
        settle(page, 3)
        assert page.locator("#left-out").text_content() == ""


def test_folder_of_more_pictures_than_the_page_takes_says_where_it_stopped(
    browser: Any, server: Running, tmp_path: Path
) -> None:
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(picture("red"))
    fewer = (FOLDER / "intake.js").read_text().replace("MOST_FILES = 5000", "MOST_FILES = 3")
    with opened(browser, server.url) as page:
        page.route("**/page/intake.js", lambda route: route.fulfill(body=fewer, content_type="text/javascript"))
        page.reload()
        drop(page, [tmp_path])
        page.locator("#left-out", has_text="The first 3 pictures were taken").wait_for()
        settle(page, 3)
        assert texts(page, ".file") == ["0.png", "1.png", "2.png"]


def test_everything_can_be_done_with_the_keyboard(browser: Any, server: Running, pictures: dict[str, Path]) -> None:
    with opened(browser, server.url) as page:
        focused = page.locator(":focus")
        for _ in range(3):
            page.keyboard.press("Tab")
        assert focused.inner_text() == "Choose pictures"
        with page.expect_file_chooser() as choosing:
            page.keyboard.press("Enter")
        choosing.value.set_files([str(pictures[name]) for name in ("red", "green", "cut")])
        settle(page, 3)
        page.locator(".frame[aria-pressed]").nth(1).wait_for()
        for name in ("Take a photo", "Download CSV", "Clear all"):
            page.keyboard.press("Tab")
            assert focused.inner_text() == name
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        assert focused.get_attribute("aria-pressed") == "true"
        for name in ("Enlarge red.png", "Remove red.png"):
            page.keyboard.press("Tab")
            assert focused.get_attribute("aria-label") == name
        page.keyboard.press("Enter")
        assert texts(page, ".file") == ["green.png", "cut.jpg"]
        assert focused.get_attribute("aria-label") == "Remove green.png"
        for _ in range(3):
            page.keyboard.press("Shift+Tab")
        page.keyboard.press("Enter")
        assert focused.inner_text() == "Choose pictures"
        assert page.locator(".tile").count() == 0


def test_the_first_tab_leads_past_everything_to_the_answers(
    browser: Any, server: Running, pictures: dict[str, Path]
) -> None:
    with opened(browser, server.url) as page:
        choose(page, [pictures["red"]])
        settle(page, 1)
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        assert page.locator(":focus").get_attribute("id") == "results"


def test_the_overlay_shows_where_the_model_looked(browser: Any, server: Running, tmp_path: Path) -> None:
    image = Image.new("RGB", (120, 80), (90, 0, 0))
    image.paste((255, 0, 0), (60, 40, 120, 80))  # what speaks most for red is at the bottom right
    file = tmp_path / "corner.png"
    image.save(file)
    with opened(browser, server.url) as page:
        choose(page, [file])
        frame = page.locator(".frame[aria-pressed]")
        frame.wait_for()
        assert "most of all at the bottom right" in page.get_by_role("button", name="corner.png").first.evaluate(
            "it => document.getElementById(it.getAttribute('aria-labelledby').split(' ')[0]).textContent"
        )
        canvas = frame.locator("canvas")
        shown = "it => getComputedStyle(it).opacity"
        page.mouse.move(1, 1)
        assert canvas.evaluate(shown) == "0"
        frame.hover()
        limit = time.monotonic() + 60
        while canvas.evaluate(shown) != "1" and time.monotonic() < limit:
            page.wait_for_timeout(20)
        assert canvas.evaluate(shown) == "1"
        assert canvas.evaluate("it => (it.width / it.height).toFixed(2)") == "1.50"
        reds = canvas.evaluate("""it => {
            const { data, width, height } = it.getContext("2d").getImageData(0, 0, it.width, it.height);
            return [0.1, 0.9].map((at) => data[4 * (Math.floor(at * height) * width + Math.floor(at * width))]);
        }""")
        cold, hot = reds
        assert (cold < 40, hot > 200) == (True, True)


def test_a_picture_that_looks_like_none_of_the_classes_is_called_so(
    browser: Any, server: Running, pictures: dict[str, Path]
) -> None:
    with opened(browser, server.url) as page:
        choose(page, [pictures["unknown"], pictures["red"]])
        settle(page, 2)
        assert texts(page, ".tile h3")[0] == "None of these"
        assert "unknown" in page.locator(".tile").nth(0).get_attribute("class")
        assert "unknown" not in page.locator(".tile").nth(1).get_attribute("class")
        assert page.locator(".tile").nth(0).locator(".fill").count() == 3


def test_on_a_phone_everything_fits_and_a_tap_shows_the_overlay(
    browser: Any, server: Running, pictures: dict[str, Path]
) -> None:
    phone = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
    with opened(browser, server.url, **phone) as page:
        wide = "document.documentElement.scrollWidth - innerWidth"
        assert page.evaluate(wide) <= 0
        camera = page.get_by_role("button", name="Take a photo")
        assert camera.is_visible()
        with page.expect_file_chooser() as choosing:
            camera.tap()
        assert choosing.value.element.get_attribute("capture") == "environment"
        choosing.value.set_files(str(pictures["red"]))
        choose(page, [pictures["cut"], pictures["unknown"]])
        settle(page, 3)
        assert page.evaluate(wide) <= 0
        assert page.locator("#privacy").is_visible()
        frame = page.locator(".frame[aria-pressed]").first
        frame.tap()
        assert frame.get_attribute("aria-pressed") == "true"
        small = page.locator("button:visible").evaluate_all("all => all.filter(it => it.offsetHeight < 24).length")
        assert small == 0


@pytest.mark.parametrize(
    ("locale", "language", "headline", "right", "bad"),
    [
        ("pt-PT", "pt-BR", "Entram fotos, saem respostas.", "100,0%", "Não pode ser usada"),
        ("fr-FR", "en", "Photos in, answers out.", "100.0%", "Cannot be used"),
    ],
)
def test_the_page_speaks_the_browsers_language(
    browser: Any,
    server: Running,
    pictures: dict[str, Path],
    locale: str,
    language: str,
    headline: str,
    right: str,
    bad: str,
) -> None:
    with opened(browser, server.url, locale=locale) as page:
        assert page.locator("html").get_attribute("lang") == language
        assert page.locator("h1").inner_text() == headline
        assert page.locator(".figure strong").inner_text() == right
        choose(page, [pictures["cut"]])
        settle(page, 1)
        assert page.locator(".tile h3").inner_text() == bad


def test_both_languages_have_the_same_sentences(browser: Any, server: Running) -> None:
    with opened(browser, server.url) as page:
        strings = page.evaluate("""async () => {
            const { STRINGS } = await import("/page/strings.js");
            const { REVIEW } = await import("/page/review-strings.js");
            const { DOCS } = await import("/page/docs-strings.js");
            const all = (tag) => ({ ...STRINGS[tag], ...REVIEW[tag], ...DOCS[tag] });
            return { en: all("en"), "pt-BR": all("pt-BR") };
        }""")
    flat = {
        language: {f"{key}.{form}": text for key, value in found.items() for form, text in forms(value).items()}
        for language, found in strings.items()
    }
    everyday = {key for key in flat["pt-BR"] if key.startswith("class.")}
    assert flat["pt-BR"].keys() - everyday == flat["en"].keys()
    for key, text in flat["en"].items():
        assert sorted(re.findall(r"\{\w+\}", text)) == sorted(re.findall(r"\{\w+\}", flat["pt-BR"][key])), key


def forms(value: str | dict[str, str]) -> dict[str, str]:
    return value if isinstance(value, dict) else {"": value}


def test_a_server_that_restarts_costs_no_picture(
    browser: Any, model: Path, tmp_path: Path, pictures: dict[str, Path]
) -> None:
    log = tmp_path / "log"
    with serving(model, log, '{"port": 0, "workers": 1}') as first, opened(browser, first.url, troubled=True) as page:
        choose(page, [pictures["red"]])
        settle(page, 1)
        workers = first.workers()
        signal_worker(first.process.pid, signal.SIGKILL)  # first, or it would start new ones
        for worker in workers:
            with contextlib.suppress(ProcessLookupError):
                signal_worker(worker, signal.SIGKILL)
        first.process.wait(20)
        choose(page, [pictures["green"], pictures["cut"], pictures["blue"]])
        page.locator("#notice").filter(has_text="Your 3 pictures are kept here").wait_for()
        choose(page, [pictures["white"]])
        page.locator("#notice").filter(has_text="Your 4 pictures are kept here").wait_for()
        second = launch(model, log, json.dumps({"port": first.port, "workers": 1}))
        try:
            wait_for_url(second, log)
            settle(page, 5)
            assert categories(page) == ["red", "green", None, "blue", "white"]
            assert "cut off" in texts(page, ".tile .body")[2]
            assert page.locator("#notice").is_hidden()
        finally:
            second.send_signal(signal.SIGTERM)
            second.wait(40)


def test_requests_stay_within_the_servers_limits(browser: Any, model: Path, tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.png" for number in range(9)]
    for file, colour in zip(files, itertools.cycle(CLASSES), strict=False):
        Image.effect_noise((150, 150), 20).convert("RGB").save(file)
        with Image.open(file) as grain:
            Image.blend(grain, Image.new("RGB", grain.size, COLOURS[colour]), 0.8).save(file)
    sizes = [file.stat().st_size for file in files]
    limits = {"max_parts": 4, "max_body_bytes": 2 * max(sizes) + 70_000, "max_part_bytes": max(sizes)}
    with visiting(browser, model, tmp_path, limits) as (_, page):
        statuses: list[int] = []
        page.on("response", lambda answer: statuses.append(answer.status) if "/predict" in answer.url else None)
        choose(page, files)
        settle(page, 9)
        assert categories(page) == [colour for _, colour in zip(files, itertools.cycle(CLASSES), strict=False)]
        assert set(statuses) == {200}
        assert len(statuses) >= 3


def test_a_picture_over_the_limit_is_sent_as_a_smaller_copy_and_the_page_says_so(
    browser: Any, model: Path, tmp_path: Path, pictures: dict[str, Path]
) -> None:
    file = tmp_path / "large.png"
    grain = Image.effect_noise((1500, 1100), 60).convert("RGB")
    Image.blend(grain, Image.new("RGB", grain.size, COLOURS["blue"]), 0.6).save(file)
    huge = tmp_path / "huge.png"
    huge.write_bytes(picture("green", size=(3000, 1000)))
    limits = {"max_part_bytes": 1_000_000, "max_pixels": 2_000_000}
    assert file.stat().st_size > limits["max_part_bytes"]
    with visiting(browser, model, tmp_path, limits) as (_, page):
        choose(page, [pictures["red"], file, huge])
        settle(page, 3)
        assert categories(page) == ["red", "blue", "green"]
        assert ["A smaller copy was sent" in text for text in texts(page, ".tile .body")] == [False, True, True]


@pytest.mark.slow
def test_a_picture_that_takes_too_long_to_arrive_is_sent_as_a_smaller_copy(
    browser: Any, model: Path, tmp_path: Path
) -> None:
    file = tmp_path / "large.bmp"
    file.write_bytes(picture("green", "BMP", (600, 500)))
    with visiting(browser, model, tmp_path, {"request_timeout": 3}, troubled=True) as (_, page):
        page.locator(".model-name").wait_for()
        slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 180_000}
        page.context.new_cdp_session(page).send("Network.emulateNetworkConditions", slow)
        choose(page, [file])
        settle(page, 1)
        assert categories(page) == ["green"]
        assert "A smaller copy was sent" in page.locator(".tile .body").inner_text()


def test_the_page_comes_back_when_the_server_says_when(
    browser: Any, model: Path, tmp_path: Path, pictures: dict[str, Path]
) -> None:
    secret, key = new_key("page")
    settings = {"max_parts": 1, "api_keys": [f"{key.name}:{key.digest}:0.25"]}
    with visiting(browser, model, tmp_path, settings, troubled=True) as (_, page):
        page.get_by_label("API key", exact=True).fill("wrong")
        page.keyboard.press("Enter")
        page.locator("#key-text", has_text="not valid here").wait_for()
        page.get_by_label("API key", exact=True).fill(secret)
        page.keyboard.press("Enter")
        page.locator(".model-name").wait_for()
        statuses: list[int] = []
        page.on("response", lambda answer: statuses.append(answer.status) if "/predict" in answer.url else None)
        choose(page, [pictures["red"], pictures["blue"]])
        page.locator("#notice", has_text="Trying again in").wait_for()
        settle(page, 2)
        assert categories(page) == ["red", "blue"]
        assert 429 in statuses
        assert page.evaluate("sessionStorage.getItem('pupila.key')") == secret
        assert page.evaluate("localStorage.length") == 0


def test_without_a_key_pictures_wait_until_there_is_one(
    browser: Any, model: Path, tmp_path: Path, pictures: dict[str, Path]
) -> None:
    secret, key = new_key("page")
    settings = {"api_keys": [f"{key.name}:{key.digest}"]}
    with visiting(browser, model, tmp_path, settings, troubled=True) as (_, page):
        page.get_by_role("button", name="Not now").click()
        choose(page, [pictures["red"]])
        page.locator("#key-dialog").wait_for()
        page.keyboard.press("Escape")
        page.locator("#notice", has_text="An API key is needed").wait_for()
        page.get_by_role("button", name="API key").click()
        page.get_by_label("API key", exact=True).fill(secret)
        page.get_by_role("button", name="Use it").click()
        settle(page, 1)
        assert categories(page) == ["red"]


def test_feedback_is_given_and_seen_in_review(
    browser: Any, model: Path, tmp_path: Path, pictures: dict[str, Path]
) -> None:
    secret, key = new_key("me", ("admin",))
    settings = {"feedback_dir": str(tmp_path / "kept"), "api_keys": [key.line()]}
    with visiting(browser, model, tmp_path, settings, troubled=True) as (_, page):
        page.locator("#key-input").fill(secret)
        page.keyboard.press("Enter")
        page.locator("#privacy", has_text="It keeps them").wait_for()
        choose(page, [pictures["red"], pictures["green"], pictures["blue"]])
        settle(page, 3)
        boxes = page.locator(".feedback")
        boxes.nth(0).get_by_role("button", name="Right").click()
        boxes.nth(0).get_by_text("Saved: red").wait_for()
        boxes.nth(1).get_by_role("button", name="Wrong").click()
        assert boxes.nth(1).get_by_role("button", name="Save").is_disabled()  # nothing is chosen yet
        boxes.nth(1).get_by_role("combobox").select_option("white")
        boxes.nth(1).get_by_role("button", name="Save").click()
        boxes.nth(1).get_by_text("Saved: white").wait_for()
        boxes.nth(2).get_by_role("button", name="Wrong").click()
        boxes.nth(2).get_by_role("combobox").select_option(label="None of these")
        boxes.nth(2).get_by_role("button", name="Save").click()
        boxes.nth(2).get_by_text("Saved: None of these").wait_for()
        page.get_by_role("link", name="Review the pictures that were kept").click()
        page.locator("#notice", has_text="There is nothing to look at here.").wait_for()  # nothing uncertain is left
        page.locator("#corrected").click()
        for said in ("None of these", "white", "red"):  # the last that was said first
            page.locator("#said", has_text=f"You said: {said}").wait_for()
            page.locator("#stage:not([aria-busy])").wait_for()
            page.keyboard.press("ArrowRight")


def test_feedback_that_fails_says_why_in_the_readers_language(
    browser: Any, model: Path, tmp_path: Path, pictures: dict[str, Path]
) -> None:
    settings = json.dumps({"port": 0, "workers": 1, "feedback_dir": str(tmp_path / "kept")})
    with (
        serving(model, tmp_path / "log", settings) as running,
        opened(browser, running.url, troubled=True, locale="pt-BR") as page,
    ):
        choose(page, [pictures["red"]])
        settle(page, 1)
        page.get_by_role("button", name="Certa").click()
        page.get_by_text("Salvo: red").wait_for()
        store = Store(tmp_path / "kept")
        store.delete()
        store.close()
        page.get_by_role("button", name="Mudar").click()
        page.locator(".tile").get_by_role("combobox").select_option("white")
        page.get_by_role("button", name="Salvar").click()
        page.locator(".feedback", has_text="O servidor não tem esta imagem: ela pode ter sido apagada.").wait_for()


def test_new_model_takes_no_correction_out_of_a_persons_hands(
    browser: Any, tmp_path: Path, pictures: dict[str, Path]
) -> None:
    model = write_model(tmp_path / "colours.onnx")
    with visiting(browser, model, tmp_path, {"feedback_dir": str(tmp_path / "kept")}) as (running, page):
        choose(page, [pictures["red"], pictures["green"], pictures["blue"]])
        settle(page, 3)
        boxes = page.locator(".feedback")
        boxes.nth(0).get_by_role("button", name="Wrong").click()
        boxes.nth(0).get_by_role("combobox").select_option("white")
        old = running.get("/model").json()["version"]
        write_model(model, name="newer")
        limit = time.monotonic() + 60
        while running.get("/model").json()["version"] == old and time.monotonic() < limit:
            time.sleep(0.1)
        boxes.nth(1).get_by_role("button", name="Right").focus()
        page.evaluate("window.untouched = document.querySelectorAll('.feedback')[2]")
        choose(page, [pictures["white"]])
        page.locator(".model-name", has_text="newer").wait_for()
        page.wait_for_function("!window.untouched.isConnected")  # the tiles were renewed
        assert page.locator(":focus").inner_text() == "Right"
        assert boxes.nth(0).get_by_role("combobox").input_value() == "white"
        boxes.nth(0).get_by_role("button", name="Save").click()
        boxes.nth(0).get_by_text("Saved: white").wait_for()


def test_server_that_does_not_say_what_it_takes_is_told_of_until_it_does(
    browser: Any, server: Running, pictures: dict[str, Path]
) -> None:
    with opened(browser, server.url, troubled=True) as page:
        page.route("**/card", lambda route: route.fulfill(status=403, body="<h1>Forbidden</h1>"))
        page.reload()
        choose(page, [pictures["red"]])
        page.locator("#notice", has_text="Its answer: HTTP 403").wait_for()
        page.locator("#card-body", has_text="Its answer: HTTP 403").wait_for()
        page.unroute("**/card")
        settle(page, 1)
        page.locator(".model-name").wait_for()
        assert categories(page) == ["red"]
        assert page.locator("#notice").is_hidden()


def test_without_a_folder_for_it_no_feedback_is_asked_for(
    browser: Any, server: Running, pictures: dict[str, Path]
) -> None:
    with opened(browser, server.url) as page:
        choose(page, [pictures["red"]])
        settle(page, 1)
        assert page.locator("#privacy").inner_text().endswith("It does not keep them.")
        assert page.locator(".feedback").count() == 0


def test_an_example_is_answered_where_the_model_knows_its_class(browser: Any, server: Running, tmp_path: Path) -> None:
    with opened(browser, server.url) as page:
        page.locator(".model-name").wait_for()
        assert not page.locator("#examples").is_visible()  # the tests' model knows colours only
    with visiting(browser, bundled_model(), tmp_path, {}) as (_, page):
        page.get_by_role("button", name="Try an example: horse").click()
        settle(page, 1)
        assert categories(page) == ["horse"]
        assert not page.locator("#examples").is_visible()


def test_the_first_load_weighs_less_than_60_kilobytes(browser: Any, server: Running) -> None:
    with opened(browser, server.url, path="/healthz", troubled=True) as page:
        fetched: dict[str, int] = {}
        events = page.context.new_cdp_session(page)
        events.send("Network.enable")
        events.on(
            "Network.loadingFinished", lambda event: fetched.update({event["requestId"]: event["encodedDataLength"]})
        )
        page.goto(server.url, wait_until="networkidle")
        page.locator(".model-name").wait_for()
        assert len(fetched) >= 15
        print(f"first load: {sum(fetched.values())} bytes in {len(fetched)} answers")
        assert sum(fetched.values()) < 60_000


def test_pictures_are_taken_before_the_card_has_come(browser: Any, server: Running, pictures: dict[str, Path]) -> None:
    held: list[Any] = []
    with opened(browser, server.url) as page:
        page.route("**/card", lambda route: held.append(route))
        page.reload()
        page.locator("#choose").wait_for()
        choose(page, [pictures["red"]])
        page.locator(".tile").wait_for()
        assert page.locator("#privacy").inner_text().strip() == "Your pictures go to this server and nowhere else."
        limit = time.monotonic() + 60
        while not held and time.monotonic() < limit:
            page.wait_for_timeout(50)
        for route in list(held):
            route.continue_()
        page.unroute("**/card")
        settle(page, 1)
        assert categories(page) == ["red"]


def test_axe_finds_no_violation(browser: Any, server: Running, pictures: dict[str, Path]) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    with opened(browser, server.url, reduced_motion="reduce") as page:

        def check(what: str) -> None:
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)
                violations = axe.Axe().run(page).response["violations"]
                found = [(one["id"], [node["html"][:200] for node in one["nodes"]]) for one in violations]
                assert found == [], (what, scheme)

        page.locator(".model-name").wait_for()
        check("the empty page")
        choose(page, [pictures[name] for name in ("red", "unknown", "cut")])
        settle(page, 3)
        page.locator(".frame[aria-pressed]").first.wait_for()
        check("answers")
        page.evaluate("() => void import('/page/key.js').then(({ askForKey }) => askForKey())")
        page.locator("#key-dialog").wait_for()
        check("the question for a key")


def test_the_bundled_models_card_is_shown_with_its_figures(browser: Any, tmp_path: Path) -> None:
    if not bundled_model().exists():
        pytest.skip("the bundled model is not in the repository yet")
    with serving(bundled_model(), tmp_path / "log", '{"port": 0, "workers": 1}') as running:
        card = running.get("/card").json()
        with opened(browser, running.url) as page:
            page.locator(".model-name").wait_for()
            text = page.locator("#card").inner_text()
            assert f"{100 * card['accuracy']:.1f}%" in text
            assert f"95% interval: {100 * card['interval'][0]:.1f}% to {100 * card['interval'][1]:.1f}%" in text
            assert f"{card['pictures']:,} " in text
            assert card["data"]["source"] in text
            assert texts(page, ".chips li") == card["classes"]


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
def test_a_picture_over_a_proxys_own_limit_is_sent_as_a_smaller_copy(
    browser: Any, model: Path, tmp_path: Path, pictures: dict[str, Path]
) -> None:
    """nginx takes 1 MB as it comes; the page under a prefix learns of it by nginx's 413 in HTML."""
    file = tmp_path / "large.bmp"
    file.write_bytes(picture("blue", "BMP", (900, 700)))
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(picture("red", "JPEG")[:-300] + bytes(2**21))
    with serving(model, tmp_path / "log", '{"port": 0, "workers": 1}') as running:
        location = f"listen 127.0.0.1:PORT; location /ai/ {{ proxy_pass {running.url}/; }}"
        with (
            nginx(tmp_path / "nginx", location) as port,
            opened(browser, f"http://127.0.0.1:{port}", "/ai/", troubled=True) as page,
        ):
            choose(page, [pictures["red"], file, broken])
            settle(page, 3)
            assert categories(page)[:2] == ["red", "blue"]
            shown = texts(page, ".tile .body")
            assert "A smaller copy was sent" in shown[1]
            assert "A proxy in front of the server takes only smaller files" in shown[2]


def test_answers_are_saved_as_a_table_that_spreadsheets_read(
    browser: Any, server: Running, pictures: dict[str, Path], tmp_path: Path
) -> None:
    formula = tmp_path / "=1+1.png"
    formula.write_bytes(pictures["red"].read_bytes())
    for locale, separator, mark in (("en-GB", ",", "."), ("pt-BR", ";", ",")):
        with opened(browser, server.url, locale=locale) as page:
            choose(page, [formula, pictures["cut"]])
            settle(page, 2)
            with page.expect_download() as begun:
                page.locator("#save").click()
            text = Path(begun.value.path()).read_text("utf-8")
        head, first, second = text.splitlines()
        assert head == "\ufeff" + separator.join(["file", "category", "confidence", "unknown", "error"])
        assert first.startswith(f"'=1+1.png{separator}red{separator}0{mark}" if mark == "." else "'=1+1.png;red;")
        assert second.split(separator)[-1] == "image_truncated"


def test_the_language_can_be_chosen_and_is_kept(browser: Any, server: Running) -> None:
    with opened(browser, server.url, locale="de-DE") as page:
        assert page.locator("h1").inner_text() == "Photos in, answers out."
        page.locator("#language").select_option("pt-BR")
        page.locator("h1", has_text="Entram fotos").wait_for()
        page.reload()
        assert page.locator("html").get_attribute("lang") == "pt-BR"


def test_a_picture_can_be_enlarged_with_where_the_model_looked(
    browser: Any, server: Running, pictures: dict[str, Path]
) -> None:
    with opened(browser, server.url) as page:
        choose(page, [pictures["red"]])
        settle(page, 1)
        small = page.locator(".frame img").bounding_box()
        page.locator(".tile .enlarge").click()
        large = page.locator("dialog.zoom .zoomed img").bounding_box()
        assert large["width"] > 1.5 * small["width"]
        assert not page.locator("dialog.zoom canvas").is_visible()
        page.locator("dialog.zoom [aria-pressed]").click()
        assert page.locator("dialog.zoom canvas").is_visible()
        page.keyboard.press("Escape")
        page.locator("dialog.zoom").wait_for(state="detached")


@pytest.mark.parametrize("width", [1280, 360])
def test_the_frame_of_an_enlarged_picture_is_no_wider_than_the_picture_and_its_buttons_fit(
    browser: Any, server: Running, pictures: dict[str, Path], width: int
) -> None:
    with opened(browser, server.url, viewport={"width": width, "height": 740}, locale="pt-BR") as page:
        choose(page, [pictures["red"]])
        settle(page, 1)
        page.locator(".tile .enlarge").click()
        frame, picture = (page.locator(found).bounding_box() for found in ("dialog.zoom", "dialog.zoom .zoomed"))
        assert frame["width"] - picture["width"] < 50
        for button in page.locator("dialog.zoom button").all():
            box = button.bounding_box()
            assert box["x"] + box["width"] < frame["x"] + frame["width"] - 5


def test_the_api_page_shows_every_path_and_tries_them(browser: Any, server: Running, pictures: dict[str, Path]) -> None:
    with opened(browser, server.url, path="/docs") as page:
        page.locator(".docs details").first.wait_for()
        paths = page.evaluate("async () => Object.keys((await (await fetch('openapi.json')).json()).paths)")
        assert set(page.locator(".docs summary code").all_inner_texts()) == set(paths)
        predict = page.locator(".docs details").first
        predict.locator("input[type=file]").set_input_files(str(pictures["red"]))
        predict.locator("input[name=top]").fill("2")
        predict.locator("button[type=submit]").click()
        answer = predict.locator("pre[role=status]", has_text="confidence")
        answer.wait_for()
        status, _, body = answer.inner_text().partition("\n")
        assert status == "200"
        assert len(json.loads(body)["predictions"][0]["top"]) == 2
