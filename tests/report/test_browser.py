"""The page in a real browser: on any width, in both schemes, and on paper."""

import pytest

from care_accel.report import write_report

SEEN = "document.querySelectorAll('svg.plot')].filter((e) => e.getBoundingClientRect().width > 0)"


@pytest.fixture
def page(chromium, everything, tmp_path):
    """Return a function that opens a page that has all there is."""
    write_report(tmp_path / "page.html", results=everything[0], bench=everything[1])

    def open_(**visitor):
        chromium.open(f"file://{tmp_path}/page.html", **visitor)
        return chromium

    return open_


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_it_is_readable_on_any_screen(page, width, scheme):
    browser = page(width=width, height=900, scheme=scheme)
    assert browser.overflow() <= 0
    assert browser.complaints() == []
    assert browser.hosts() == {"file://"}
    browser.run("document.querySelectorAll('details').forEach((e) => { e.open = true; })")
    assert browser.overflow() <= 0
    browser.screenshot(f"report-{width}-{scheme}")


@pytest.mark.parametrize("width", [360, 430, 600, 703, 705, 768, 1024, 1280])
def test_each_plot_is_there_once_and_its_text_is_not_small(page, width):
    browser = page(width=width, height=900)
    sizes = browser.run(
        f"[...{SEEN}.map((e) => 12.5 * e.getBoundingClientRect().width / e.viewBox.baseVal.width)"
    )
    assert len(sizes) == browser.run("document.querySelectorAll('svg.plot.wide').length")
    assert min(sizes) >= 11
    assert browser.run("Math.min(...[...document.querySelectorAll('td, th, p, li, small')]"
                       ".map((e) => parseFloat(getComputedStyle(e).fontSize)))") >= 9.5  # fmt: skip


@pytest.mark.parametrize("width", [360, 1280])
def test_no_text_of_a_plot_covers_another_or_leaves_it(page, width):
    browser = page(width=width, height=900)
    covered = browser.run(
        f"""[...{SEEN}.flatMap((plot) => {{
          const frame = plot.getBoundingClientRect();
          const boxes = [...plot.querySelectorAll('text')].map((e) => [e.textContent, e.getBoundingClientRect()]);
          const out = boxes.filter(([, b]) => b.left < frame.left - 3 || b.right > frame.right + 9);
          const over = boxes.filter(([, a], i) => boxes.slice(i + 1).some(([, b]) =>
            Math.min(a.right, b.right) - Math.max(a.left, b.left) > 3
            && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 4));
          return [...out, ...over].map(([text]) => text);
        }})"""
    )
    assert covered == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_stand_out_from_their_ground(page, scheme):
    browser = page(scheme=scheme)
    contrasts = browser.run(
        """(() => {
          const style = getComputedStyle(document.documentElement);
          const light = (name) => {
            const value = style.getPropertyValue(name).trim();
            const parts = [1, 3, 5].map((i) => parseInt(value.slice(i, i + 2), 16) / 255)
              .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
            return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
          };
          const contrast = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
          const names = ['--ink', '--faint', ...[...Array(8).keys()].map((i) => `--s${i}`)];
          return Object.fromEntries(names.map((n) => [n, contrast(light(n), light('--sheet'))]));
        })()"""
    )
    assert min(contrasts[name] for name in ("--ink", "--faint")) >= 4.5  # text
    assert min(contrasts.values()) >= 3  # marks and bars
    ground = browser.run("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(16, 21, 20)") == (scheme == "dark")


def test_on_paper_it_is_light_and_nothing_is_folded_away(page):
    browser = page(scheme="dark")
    heights = "[...document.querySelectorAll('details table')].map((e) => e.checkVisibility({ contentVisibilityAuto: true }))"
    assert not any(browser.run(heights))
    browser.call(
        "Emulation.setEmulatedMedia",
        media="print",
        features=[{"name": "prefers-color-scheme", "value": "dark"}],
    )
    assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.run(
        "[...document.querySelectorAll('details table')].every((e) => e.getBoundingClientRect().height > 20)"
    )
    assert browser.run("document.querySelectorAll('details table').length") > 0
    paper = browser.printed()
    browser.call("Emulation.setEmulatedMedia", media="")
    assert paper.startswith(b"%PDF")
    assert len(paper) > 10_000
