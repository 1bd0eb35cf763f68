"""The page in headless Chromium: it opens, filters, searches, follows keys and links, and is quiet and accessible."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import quote

import pytest

from experiments.compare import run as compare
from experiments.report.markdown import write_report
from refine.report.build import build_report
from refine.report.example import describe_examples
from stages.text import VALUE, one_line
from tests.experiments.report.test_page import SCRIPTS, hostile
from tests.experiments.synthetic import synthetic_inputs
from tests.experiments.test_claims import seeded
from tests.experiments.test_compare import write_run

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if not (CHROMIUM and DRIVER):
    pytest.skip("no Chromium here (apt-get install chromium chromium-driver)", allow_module_level=True)
webdriver = pytest.importorskip("selenium.webdriver")

from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select, WebDriverWait  # noqa: E402

ODD = "p/7 #&=%<b>\"'ä"  # an id that a link has to quote


@pytest.fixture(scope="module")
def examples() -> list[dict]:
    found = describe_examples(synthetic_inputs(resamples=20, implicit=True))
    found[3] = hostile(found[3])
    found[7] |= {"problem_id": ODD}
    return found


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, examples: list[dict]) -> str:
    folder = tmp_path_factory.mktemp("report")
    write_report(folder, build_report(synthetic_inputs(resamples=20, implicit=True)), examples)
    return (folder / "report.html").as_uri()


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of three arms with two seeds each."""
    folder, first = tmp_path_factory.mktemp("compared"), synthetic_inputs(60, resamples=20)
    for seed in (0, 1):
        for where in ("none", "oracle", "sorm"):
            own = replace(seeded(first, seed), where=where)
            write_run(folder / f"headline_where={where},seed={seed}", own, headline_where=where)
    assert compare([str(folder)]) == 0
    return (folder / "compare.html").as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_page_load_timeout(120)
    yield driver
    driver.quit()


@pytest.fixture
def open_page(browser, address):
    """Open the page at a hash; afterwards nothing may have been said on the console, or asked of a network."""

    opened = set()

    def load(fragment: str = "", width: int = 1400, theme: str = "light", page: str = address):
        opened.add(page)
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        look = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", look)
        browser.get("about:blank")  # a new hash alone would not load the page anew
        browser.get(page + fragment)
        # on a busy machine the driver comes back before the page's script has run
        ready = "const count = document.getElementById('count'); return !!count && count.textContent !== ''"
        if page == address:
            WebDriverWait(browser, 60).until(lambda one: one.execute_script(ready))
        return browser

    yield load
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {
        e["params"]["request"]["url"].partition("#")[0] for e in events if e["method"] == "Network.requestWillBeSent"
    }
    assert opened <= asked <= {*opened, "about:blank", "data:,"} and opened


def text(browser, selector: str) -> str:
    return browser.find_element(By.CSS_SELECTOR, selector).text


def shown(browser) -> list[str]:
    return [one.text for one in browser.find_elements(By.CSS_SELECTOR, "#list a > span:first-child")]


def press(browser, key: str, where: str = "body") -> None:
    browser.find_element(By.CSS_SELECTOR, where).send_keys(key)


def of_group(examples: list[dict], wanted) -> list[str]:
    return [one_line(one["problem_id"], VALUE) for one in examples if wanted(one)]


def test_it_opens_with_the_first_problem(open_page, examples):
    page = open_page()
    assert page.title == "GLoRe on a synthetic run" and text(page, "#verdict").startswith("Main finding: ")
    assert text(page, "#count") == "Problem 1, p0000: 120 of 120 problems shown" and len(shown(page)) == 120
    assert text(page, "#problem h3") == "p0000" and page.find_element(By.ID, "previous").get_attribute("disabled")
    assert examples[0]["question"] in text(page, "#problem .question")


def test_a_problem_shows_draft_refinements_scores_and_choice(open_page, examples):
    (name, *_) = of_group(
        examples,
        lambda one: one["located_error"] == one["true_error"] == 1 and one["chosen"] == "local" and one["correct"],
    )
    example = next(one for one in examples if one["problem_id"] == name)
    page = open_page(f"#problem={name}")
    boxes = page.find_elements(By.CSS_SELECTOR, "#problem .solution")
    assert [box.find_element(By.TAG_NAME, "h4").text for box in boxes] == [
        "Draft",
        "Global refinement",
        "Local refinement",
    ]
    draft, _, local = (box.text for box in boxes)
    assert "✗ wrong" in draft and "picked" not in draft and "✓ right" in local and "picked" in local
    assert draft.count("[BAD]") == 1 and f"[BAD] {example['solutions']['draft']['steps'][1]}" in draft
    assert "first wrong step, by the oracle" in draft
    rows = boxes[0].find_elements(By.CSS_SELECTOR, "tbody tr")
    for at, row in enumerate(rows):
        own = example["solutions"]["draft"]
        scores = [f"{own[scorer][at]:.2f}" for scorer in ("sorm", "orm", "implicit")]
        assert row.text.split()[:4] == [str(at + 1), *scores]
    # side by side on a wide screen, one under the other on a narrow one
    assert len({box.rect["y"] for box in boxes}) == 1
    narrow = open_page(f"#problem={name}", width=360).find_elements(By.CSS_SELECTOR, "#problem .solution")
    assert len({box.rect["x"] for box in narrow}) == 1 and len({box.rect["y"] for box in narrow}) == 3


def test_filters_and_search_narrow_what_is_shown(open_page, examples):
    page = open_page()
    choose = Select(page.find_element(By.ID, "show"))
    fixed = of_group(
        examples,
        lambda one: (
            not one["solutions"]["draft"]["correct"]
            and one["solutions"]["local"]
            and one["solutions"]["local"]["correct"]
        ),
    )
    choose.select_by_value("fixed_local")
    assert shown(page) == fixed and text(page, "#count").endswith(f"{len(fixed)} of 120 problems shown")
    assert f"fixed by local ({len(fixed)})" in choose.first_selected_option.text
    press(page, fixed[2].upper(), "#find")
    assert shown(page) == [fixed[2]] and text(page, "#problem h3") == fixed[2]
    press(page, "nothing is like this", "#find")
    assert shown(page) == [] and text(page, "#count") == "No problem is like that." and not text(page, "#problem")
    for name in ("previous", "next"):
        assert page.find_element(By.ID, name).get_attribute("disabled")
    # arrow keys move the cursor of a search, not the problem
    page.find_element(By.ID, "find").clear()
    press(page, "x", "#find")
    before = text(page, "#count")
    press(page, Keys.ARROW_LEFT, "#find")
    assert text(page, "#count") == before


def test_keys_buttons_and_clicks_move_and_the_address_follows(open_page):
    page = open_page()
    press(page, Keys.ARROW_RIGHT)
    press(page, Keys.ARROW_RIGHT)
    assert text(page, "#problem h3") == "p0002" and page.current_url.endswith("#problem=p0002")
    press(page, Keys.ARROW_LEFT)
    page.find_element(By.ID, "next").click()
    page.find_element(By.ID, "previous").click()
    assert text(page, "#problem h3") == "p0001" and page.current_url.endswith("#problem=p0001")
    assert page.find_element(By.CSS_SELECTOR, "#list [aria-current]").text.startswith("p0001")
    top = page.execute_script("return document.getElementById('count').getBoundingClientRect().top")
    assert 0 <= top < 900  # what changed can be seen
    page.find_element(By.CSS_SELECTOR, "#list li:nth-child(5) a").click()
    WebDriverWait(page, 30).until(lambda one: text(one, "#problem h3") == "p0004")
    # focus stays in the list while keys move through it
    press(page, Keys.ARROW_RIGHT, "#list [aria-current]")
    assert page.switch_to.active_element.text.startswith("p0005")


@pytest.mark.parametrize("theirs", ["p0041", ODD])
def test_a_link_opens_its_problem(open_page, theirs):
    page = open_page(f"#problem={quote(theirs, safe='')}")
    assert text(page, "#problem h3") == theirs and f", {theirs}: 120 of 120" in text(page, "#count")
    assert 0 <= page.execute_script("return document.getElementById('examples').getBoundingClientRect().top") < 900
    # the link that the page gives is one
    link = page.find_element(By.CSS_SELECTOR, "#problem h3 a").get_attribute("href")
    assert text(open_page("#" + link.partition("#")[2]), "#problem h3") == theirs


def test_a_link_keeps_filter_and_search(open_page, examples):
    (name, *_) = wrong = of_group(examples, lambda one: not one["solutions"]["draft"]["correct"])
    page = open_page(f"#problem={name}&show=wrong")
    assert shown(page) == wrong and text(page, "#problem h3") == name
    right = of_group(examples, lambda one: one["solutions"]["draft"]["correct"])[0]
    page = open_page(f"#problem={right}&show=wrong")  # it is not among those: all are shown
    assert text(page, "#problem h3") == right and len(shown(page)) == 120
    page = open_page("#problem=nobody&show=nonsense")
    assert text(page, "#count").startswith("There is no problem nobody here.") and len(shown(page)) == 120


def test_hostile_texts_are_shown_as_texts(open_page):
    page = open_page("#find=" + quote("</script>", safe="") + "&problem=p")
    assert len(shown(page)) == 1 and shown(page)[0].startswith("</script><script>alert(1)")
    assert SCRIPTS in text(page, "#problem .question")
    draft = text(page, "#problem .solution")
    assert SCRIPTS in draft and "(1,000,000 characters)" in draft and "… 1,000 more steps" in draft
    assert "It has no steps." in text(page, "#problem .solution:nth-child(2)")
    assert not page.find_elements(By.CSS_SELECTOR, "img, #problem script, #problem b")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1400])
def test_it_fits_and_is_accessible(open_page, width, theme):
    page = open_page("#problem=p0003", width, theme)
    assert {"color-contrast", "label", "select-name", "region"} <= passes(page, theme)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1400])
def test_a_comparison_fits_and_is_accessible(open_page, compared, width, theme):
    page = open_page("", width, theme, compared)
    assert {"color-contrast", "region"} <= passes(page, theme)
    assert text(page, "h1") and len(page.find_elements(By.CSS_SELECTOR, "svg")) >= 3
    links = [one.get_attribute("href") for one in page.find_elements(By.CSS_SELECTOR, "td a")]
    assert links and all("/report.html#problem=" in link for link in links)
    assert not page.find_elements(By.CSS_SELECTOR, "script")


def passes(page, theme: str) -> set[str]:
    """The rules of axe that a page keeps; it keeps all, and nothing of it is beside the window."""
    axe = pytest.importorskip("axe_core_python.selenium")
    assert (
        page.execute_script(
            "const { scrollWidth, clientWidth } = document.documentElement; return scrollWidth - clientWidth"
        )
        == 0
    )
    dark = page.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert dark == ("rgb(15, 20, 25)" if theme == "dark" else "rgb(255, 255, 255)")
    found = axe.Axe().run(page)
    assert [(one["id"], one["nodes"][0]["html"][:200]) for one in found["violations"]] == []
    return {one["id"] for one in found["passes"]}


def test_every_control_can_be_reached_and_seen_by_keyboard(open_page):
    page = open_page()
    reached = []
    for _ in range(40):
        press(page, Keys.TAB, "body") if not reached else page.switch_to.active_element.send_keys(Keys.TAB)
        focused = page.switch_to.active_element
        reached.append(focused.get_attribute("id") or focused.get_attribute("class") or focused.text)
        outline = focused.value_of_css_property("outline-style"), focused.value_of_css_property("outline-width")
        assert outline == ("solid", "3px"), reached
        if focused.get_attribute("aria-current"):
            break
    assert reached[0] == "skip" and "Examples" in reached
    order = [reached.index(name) for name in ("show", "find", "next")]
    assert order == sorted(order) and reached[-1].startswith("p0000")


def test_the_tables_and_plots_have_names(open_page):
    page = open_page()
    for one in page.find_elements(By.CSS_SELECTOR, "svg, [role=region]"):
        assert one.get_attribute("role") in ("img", "region") and one.get_attribute("aria-label")
    assert page.find_element(By.ID, "count").get_attribute("aria-live") == "polite"
