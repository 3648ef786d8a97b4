"""The page in a browser: sorted, filtered, played, by keyboard, on a phone, in the dark."""

import re

import pytest

from tests.leaderboard.pages import CLIPS, HOSTILE, results_of
from tests.leaderboard.test_page import PAPER
from thbench.leaderboard import published
from thbench.leaderboard.page import write_page

pytestmark = pytest.mark.browser

FLAGS = ["--no-sandbox", "--disable-gpu", "--autoplay-policy=no-user-gesture-required"]
TIMES = "() => TH.player.videos.map(v => v.currentTime)"
READY = "() => TH.player.videos.every(v => v.readyState >= 2 && !v.seeking)"


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    results = results_of(tmp_path_factory.mktemp("page"))
    out = tmp_path_factory.mktemp("out") / "page"
    return write_page(out, results, published.read(PAPER))


@pytest.fixture(scope="module")
def chromium(request):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = str(request.config.getoption("browser"))
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium, index):
    """Opens the page; no error may be said, and nothing asked for outside its folder."""
    said, asked, contexts = [], [], []

    def open_page(**settings):
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **settings})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(index.as_uri())
        page.wait_for_function("() => TH.player.videos.length === 4")
        page.wait_for_function(READY)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == []
    folder = index.parent.as_uri()
    outside = [url for url in asked if not url.startswith((folder, "data:,"))]
    assert outside == []
    assert any(url.endswith(".mp4") for url in asked)


def titles(page):
    return page.locator("#table-part > .scroll tbody th .name").all_inner_texts()


def sort_by(page, name):
    page.locator(f"#table-part thead button[data-column='{name}']").click()


def test_a_heading_sorts_best_first_then_worst_then_as_the_table_was(opened):
    page = opened()
    own = [" SAR", " DAWN", f" {HOSTILE}"]
    assert [t.strip() for t in titles(page)] == [t.strip() for t in own]
    heading = page.locator("#table-part thead th").nth(2)
    sort_by(page, "PSNR")
    assert heading.get_attribute("aria-sort") == "ascending"
    best_first = [t.strip() for t in titles(page)]
    assert best_first == ["SAR", "DAWN", HOSTILE], "what has no value is last"
    sort_by(page, "PSNR")
    assert [t.strip() for t in titles(page)] == ["DAWN", "SAR", HOSTILE]
    assert page.evaluate("document.activeElement.dataset.column") == "PSNR"
    sort_by(page, "PSNR")
    assert heading.get_attribute("aria-sort") == "none"
    sort_by(page, "")
    assert [t.strip() for t in titles(page)] == [HOSTILE, "DAWN", "SAR"]


def test_filters_choose_tables_rows_and_columns(opened):
    page = opened()
    assert page.locator("#f-origin option").all_inner_texts() == [
        "all",
        "measured",
        "smoke",
        "reported",
    ]
    page.fill("#words", "daw")
    assert [t.strip() for t in titles(page)] == ["DAWN"]
    page.fill("#words", "nothing like it")
    assert page.locator("#table-part td.empty").inner_text() == "No row has these words."
    page.fill("#words", "")
    heads = page.locator("#table-part > .scroll thead th")
    assert "1 without any value are hidden" in page.locator("#count").inner_text()
    before = heads.count()
    page.click("#columns summary")
    page.get_by_role("checkbox", name="Absent").check()
    page.get_by_role("checkbox", name="PSNR (dB) ↑").uncheck()
    assert heads.count() == before
    page.get_by_role("button", name="None").click()
    assert heads.count() == 1
    page.get_by_role("button", name="All", exact=True).click()
    assert heads.count() == before + 1
    page.select_option("#f-origin", "reported")
    page.wait_for_function("() => TH.state.table.origin === 'reported'")
    assert page.locator("#f-table option").count() == 12
    assert page.locator("#watch-part").is_hidden()
    assert page.locator("#head-part .badge").inner_text() == "reported"
    page.select_option("#f-origin", "smoke")
    assert [t.strip() for t in titles(page)] == ["Tiny"]
    assert "No videos on this page" in page.locator("#watch-part").inner_text()


def test_videos_play_in_step_and_the_others_follow_the_longest(opened):
    page = opened()
    page.select_option("#speed", "0.5")
    page.keyboard.press("Tab")  # away from the choice, which has keys of its own
    page.evaluate("document.activeElement.blur()")
    page.evaluate("TH.player.videos[1].currentTime = 0.5")
    page.wait_for_function(READY)
    page.keyboard.press(" ")
    page.wait_for_timeout(900)
    apart = []
    for _ in range(5):
        times = page.evaluate(TIMES)[:3]
        apart.append(max(times) - min(times))
        page.wait_for_timeout(60)
    assert page.evaluate("TH.player.playing")
    assert sorted(apart)[2] < 0.04, apart
    assert page.evaluate("TH.player.frame") > 5
    page.wait_for_function("() => TH.player.frame >= 31")
    assert page.locator(".tile.over").count() == 1, "the short one has ended"
    page.wait_for_function("() => TH.player.frame < 20")  # it begins again
    page.click("#play")
    times = page.evaluate(TIMES)
    page.wait_for_function(READY)
    assert not page.evaluate("TH.player.playing")
    assert max(times[:3]) - min(times[:3]) < 0.001, "a pause sets all to one frame"


def test_one_video_is_heard(opened):
    page = opened()
    heard = "() => TH.player.videos.map(v => !v.muted)"
    assert page.evaluate(heard) == [True, False, False, False]
    page.get_by_role("button", name="Sound of DAWN").click()
    assert page.evaluate(heard) == [False, False, True, False]
    assert page.locator(".sound[aria-pressed=true]").count() == 1


def test_frames_are_stepped_by_keys_and_curves_follow(opened):
    page = opened()
    for key in "....":
        page.keyboard.press(key)
    page.keyboard.press(",")
    page.keyboard.press("ArrowRight")
    page.wait_for_function(READY)
    assert page.evaluate(TIMES) == pytest.approx([4.5 / 25] * 4)
    assert page.locator("#where").inner_text().startswith("5 / 50")
    at = "() => Number(document.querySelector('#curves .cursor').getAttribute('x1'))"
    before = page.evaluate(at)
    page.locator("#scrub").focus()
    page.keyboard.press("End")
    page.wait_for_function(READY)
    assert page.evaluate("TH.player.frame") == 49
    assert page.evaluate(TIMES) == pytest.approx([49.5 / 25] * 3 + [29.5 / 25])
    assert page.evaluate(at) > before
    assert "frames 41 to 50" in page.locator("#curves .readout").first.inner_text()
    page.locator("#curves svg.chart").first.click()
    assert 15 < page.evaluate("TH.player.frame") < 30
    page.keyboard.press("]")
    assert page.evaluate("TH.state.clip") == CLIPS[1]
    assert page.locator("#play svg").count() == 1
    assert page.locator("#where").inner_text().startswith(str(page.evaluate("TH.player.frame") + 1))


def test_rows_are_hidden_from_the_gallery_and_the_curves(opened):
    page = opened()
    lines = page.locator("#curves polyline:not(.fewer)")
    assert lines.count() == 3
    chip = page.locator(".chip", has_text="DAWN")
    chip.click()
    assert chip.get_attribute("aria-pressed") == "false"
    assert page.locator(".tile").count() == 3
    assert lines.count() == 2
    chip.click()
    page.wait_for_function(READY)
    assert page.locator(".tile").count() == 4
    page.select_option("#over", "clip")
    assert lines.count() == 3
    assert page.locator(".value").nth(1).inner_text() == "31"


def test_a_row_says_where_it_comes_from(opened):
    page = opened()
    page.locator("#table-part tbody .name", has_text="DAWN").focus()
    page.keyboard.press("Enter")
    dialog = page.locator("#about")
    assert dialog.is_visible()
    text = dialog.inner_text()
    for words in ("0123abcd, 700 steps", "abc", f"Left out: bad {HOSTILE}", "no frames", "CPU"):
        assert words in text
    page.keyboard.press("Escape")
    assert dialog.is_hidden()


def test_names_are_text(opened):
    page = opened()
    page.keyboard.press("]")
    assert page.evaluate("document.images.length") == 0
    assert page.locator("body [onerror], body [onload]").count() == 0
    assert HOSTILE in page.locator("#plan-part .hint").last.inner_text()
    assert page.locator("#clip").input_value() == CLIPS[1]


def test_costs_and_plans_are_drawn(opened):
    page = opened()
    assert page.locator("#cost-part svg .mark").count() == 3
    page.select_option("#cost-y", "PSNR")
    assert page.locator("#cost-part svg .mark").count() == 2
    assert "SAR is the cheapest and has the best value." in page.locator("#cost-part").inner_text()
    assert "there are none here" in page.locator("#cost-part").inner_text()
    assert page.locator("#plan-part svg.plan").count() == 2


def test_a_phone_scrolls_tables_not_the_page(opened):
    page = opened(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    wide = "document.scrollingElement.scrollWidth"
    assert page.evaluate(wide) <= 390
    assert page.evaluate("document.querySelector('#table-part .scroll').scrollWidth") > 390
    page.evaluate("document.querySelector('#table-part > .scroll').scrollLeft = 200")
    first = page.locator("#table-part tbody th").first.bounding_box()
    assert 0 <= first["x"] < 40, "the first column stays"
    for table in page.locator("#f-table option").all():
        page.select_option("#f-table", table.get_attribute("value"))
        assert page.evaluate(wide) <= 390, table.inner_text()
    page.locator("#table-part tbody .name").first.click()
    assert page.locator("#about").bounding_box()["width"] <= 390


def test_it_is_dark_where_the_system_is_and_where_the_switch_says_so(opened):
    def brightness(page):
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3

    dark, light = opened(color_scheme="dark"), opened(color_scheme="light")
    assert brightness(dark) < 60
    assert brightness(light) > 200
    dark.click("#theme")
    assert brightness(dark) > 200
    light.click("#theme")
    light.click("#theme")
    assert brightness(light) < 60
    light.reload()
    assert brightness(light) < 60, "it is remembered"
    light.wait_for_function("() => TH.player.videos.length === 4")


def test_everything_is_reached_by_keyboard_with_a_visible_focus(opened):
    page = opened()
    seen = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        found = page.evaluate(
            "(() => { const a = document.activeElement, s = getComputedStyle(a);"
            " return [a.id || a.className || a.tagName, s.outlineStyle]; })()"
        )
        seen.add(found[0])
        assert found[1] != "none" or found[0] == "BODY", found
    wanted = {"theme", "f-data", "f-table", "chip", "clip", "metric", "sound", "back", "play"}
    assert wanted | {"next", "scrub", "speed", "loop", "over", "words", "scroll"} <= seen
