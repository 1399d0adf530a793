"""The page in a browser: it opens without errors, filters, sorts, and obeys the keyboard."""

import shutil

import pytest

from processor.report.command import main
from tests.conftest import read_csv

webdriver = pytest.importorskip("selenium.webdriver")
waits = pytest.importorskip("selenium.webdriver.support.wait")
_BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
_DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (_BROWSER and _DRIVER), reason="needs Chromium and chromedriver"),
]
_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(trained_run, tmp_path_factory):
    folder = shutil.copytree(trained_run, tmp_path_factory.mktemp("page") / "run")
    assert main([str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = _BROWSER
    for flag in (*_FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(_DRIVER))
    yield driver
    driver.quit()


class Page:
    """The page as a reader handles it."""

    def __init__(self, browser, page, size=(1400, 1000)):
        self.browser = browser
        browser.set_window_size(*size)
        browser.get(page.as_uri())

    def all(self, selector):
        return self.browser.find_elements("css selector", selector)

    def press(self, *keys):
        for key in keys:
            webdriver.ActionChains(self.browser).send_keys(key).perform()

    def click(self, element):
        """Whatever is in front of it: the page may still be scrolling."""
        self.browser.execute_script(
            "arguments[0].dispatchEvent(new MouseEvent('click', {bubbles: true, cancelable: true}))", element
        )

    def choose(self, name, value):
        field = self.browser.find_element("id", name)
        self.browser.execute_script(
            "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input', {bubbles: true}))",
            field, value,
        )  # fmt: skip

    def ask(self, script):
        return self.browser.execute_script(f"return {script}")

    def labels(self):
        return self.ask("[...document.querySelectorAll('.query')].map(row => row.getAttribute('aria-label'))")


@pytest.fixture
def page(browser, run):
    yield Page(browser, run / "report" / "index.html")
    assert browser.get_log("browser") == []


def wait(page, script):
    """Until the JavaScript expression is true."""
    return waits.WebDriverWait(page.browser, 10).until(lambda _: page.ask(script))


def test_rows_carry_the_ap_of_ranks_csv_in_every_order(page, run):
    table = read_csv(run / "ranks.csv")
    worst_first = sorted(range(len(table)), key=lambda n: (float(table[n]["AP"]), n))

    def said(numbers):
        return [f"query {n + 1}: person {table[n]['pid']}, camera {table[n]['camera']}, "
                f"AP {100 * float(table[n]['AP']):.2f} %" for n in numbers]  # fmt: skip

    assert page.labels() == said(worst_first)
    page.choose("sort", "data")
    assert page.labels() == said(range(len(table)))
    page.choose("sort", "high")
    best_first = sorted(range(len(table)), key=lambda n: (-float(table[n]["AP"]), n))
    assert page.labels() == said(best_first)
    camera = table[0]["camera"]
    page.choose("camera", f"={camera}")
    assert page.labels() == said([n for n in best_first if table[n]["camera"] == camera])
    page.choose("find", table[0]["pid"])
    both = [n for n in best_first if (table[n]["camera"], table[n]["pid"]) == (camera, table[0]["pid"])]
    assert page.labels() == said(both)
    assert page.all("#count")[0].text == f"{len(both)} of {len(table)}"
    page.choose("find", "nobody")
    assert page.labels() == [] and page.all("#empty")[0].is_displayed()
    page.click(page.all("#tools button[type=reset]")[0])
    wait(page, "document.querySelectorAll('.query').length") and page.choose("low", "60")
    assert page.labels() == said([n for n in worst_first if float(table[n]["AP"]) >= 0.6])


def test_the_keyboard_moves_opens_and_finds(page, run):
    table = read_csv(run / "ranks.csv")
    page.choose("sort", "data")
    page.press("j", "j", "k", webdriver.Keys.ARROW_DOWN, webdriver.Keys.ENTER)
    row = page.all(".query.current")[0]
    assert row.get_attribute("data-number") == "1" and row.get_attribute("aria-expanded") == "true"
    text = page.all(".query.open .films")[0].text
    assert f"{100 * float(table[1]['AP']):.2f} %" in text and table[1]["query"] in text
    for place in range(1, 11):
        if table[1][f"top{place}"]:
            assert table[1][f"top{place}"] in text and table[1][f"top{place}_distance"] in text
    wrong = sum(1 for place in range(1, 11) if table[1][f"top{place}_pid"] not in ("", table[1]["pid"]))
    assert len(page.all(".query.open .films .badge.wrong")) == wrong
    wait(page, "[...document.querySelectorAll('.query.open .film img')].every(i => i.complete && i.naturalWidth)")
    page.press(webdriver.Keys.ENTER)
    assert page.all(".query.open") == []
    page.press("/", "x", "?")
    assert page.ask("[document.activeElement.id, document.activeElement.value]") == ["find", "x?"]
    page.press(webdriver.Keys.ESCAPE, "?")
    assert page.ask("document.getElementById('help').open")
    page.press(webdriver.Keys.ESCAPE)
    assert not page.ask("document.getElementById('help').open")


def test_a_bar_filters_and_a_point_opens_its_query(page, run):
    counts = []
    for bar in page.all(".bar"):
        counts.append(int(bar.get_attribute("data-tip").split()[-2]))
        page.click(bar)
        wait(page, f"document.getElementById('low').value === '{bar.get_attribute('data-low')}'")
        wait(page, f"document.querySelectorAll('.query').length === {counts[-1]}")
    assert sum(counts) == len(read_csv(run / "ranks.csv"))
    name = read_csv(run / "ranks.csv")[3]["query"]
    point = page.all(f"#map [data-name='{name}']")[0]
    page.click(point)
    wait(page, "document.querySelectorAll('.query.open').length")
    assert name in page.all(".query.open")[0].text


@pytest.mark.parametrize("width", [360, 768, 1400])
def test_nothing_is_wider_than_the_window(browser, run, width):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    )
    page = Page(browser, run / "report" / "index.html")
    page.press("j", webdriver.Keys.ENTER)
    assert page.ask("document.documentElement.scrollWidth") <= width
    # Of a row that is closed nothing is cut off.
    assert page.ask(
        "[...document.querySelectorAll('.query:not(.open)')].every(r => r.scrollHeight <= r.clientHeight + 1)"
    )
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_pictures_keep_their_size_and_what_is_cut_off_fades_out(browser, run):
    size = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    page = Page(browser, run / "report" / "index.html")
    page.ask("document.getElementById('attention').scrollIntoView()")
    wait(page, "[...document.querySelectorAll('#attention img')].every(i => i.complete && i.naturalWidth)")
    assert page.ask("[...document.querySelectorAll('#attention img')].every(i => i.clientWidth === i.naturalWidth)")
    for box in (".scroll:has(.numbers)", "#attention .scroll", ".scroll:has(.heat)"):
        fades = f"getComputedStyle(document.querySelector('{box}')).maskImage !== 'none'"
        wait(page, fades)
        page.ask(f"document.querySelector('{box}').scrollTo(9999, 0)")
        wait(page, f"!({fades})")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    page.browser.set_window_size(1400, 1000)
    assert not page.ask("document.querySelector('.scroll:has(.numbers)').classList.contains('more')")


def test_the_theme_follows_the_system_and_the_switch(browser, run):
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    page = Page(browser, run / "report" / "index.html")
    colour = "getComputedStyle(document.body).backgroundColor"
    assert page.ask(colour) == "rgb(15, 18, 22)"
    page.all("#theme")[0].click()
    assert page.ask(colour) == "rgb(246, 247, 249)"
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
