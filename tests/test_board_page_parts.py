"""The parts of the page in a real browser: contents, all metrics, two SAEs, the address, CSV, a phone, the dark."""

import csv
import hashlib
import io
import json

import numpy as np
import pytest

from sae_bench.board import pairs
from sae_bench.board.anchors import of_saes
from sae_bench.board.overview import overviews
from sae_bench.results import store
from sae_bench.schema import INFERENCE
from sae_bench.units import Units
from tests.builders.boards import HOSTILE, make, put, small
from tests.builders.browser import html
from tests.builders.results import result

pytest.importorskip("vl_convert", reason="the extra 'board' is not installed")

SCORES = "Array.from(document.querySelector('.scores tbody').rows)"
OVER = "Array.from(document.querySelector('.overview tbody').rows)"
SHOWN = f"{OVER}.filter((r) => !r.hidden).map((r) => r.cells[0].textContent)"


def key(name):
    """The name of an SAE of the builder in links: the first digits of its weights."""
    return name.encode().hex().ljust(64, "0")[:12]


def measured(folder, name, fvu, l0=32.0, *, units=True, n=60, **changes):
    """An SAE whose FVU follows from its units, and its L0."""
    ids, own = tuple(f"d{i}" for i in range(n)), np.random.default_rng(list(name.encode()))
    base = {"tokens": np.full(n, 10.0), "energy": np.full(n, 100.0), "x": np.zeros((n, 2)), "rounding": np.zeros(n)}
    error = 100 * fvu * np.random.default_rng(3).lognormal(0, 0.3, n) * own.lognormal(0, 0.05, n)
    table = Units(ids, base | {"error": error})
    figures = {"fvu": float(error.sum() / base["energy"].sum())}
    put(folder, name, "reconstruction", figures, tables={"document": table} if units else None, **changes)
    put(folder, name, "sparsity", {"l0": l0}, **changes)


def hash_of(b):
    return b.js("location.hash")


def choose(b, name, value):
    b.js(
        f"document.getElementById('filter-{name}').value = {json.dumps(value)};"
        "document.getElementById('filters').dispatchEvent(new Event('input'))"
    )


def click(b, section, column):
    b.js(f"Array.from(document.querySelector('{section} thead').rows).pop().cells[{column}].firstElementChild.click()")


def reopened(b):
    """The page at the address that it has now, as somebody sees it who was sent the link."""
    address = b.js("location.href")
    b.send("Page.navigate", url="about:blank")
    b.until("location.href === 'about:blank'")
    b.events = []
    b.send("Page.navigate", url=address)
    b.until("document.readyState === 'complete' && document.getElementById('count').textContent !== ''")


# --- contents and all metrics


def test_the_contents_lead_to_every_section(opened, tmp_path):
    b = opened(small(tmp_path / "r"))
    links = b.js("Array.from(document.querySelectorAll('#contents a'), (a) => a.hash)")
    sections = b.js("Array.from(document.querySelectorAll('#main section'), (s) => '#' + s.id)")
    assert set(links) == set(sections)
    assert len(sections) == len(set(sections)) == 9
    for link in links[-1:]:
        b.js(f"document.querySelector('#contents a[href=\"{link}\"]').click()")
        b.until(f"Math.abs(document.querySelector('{link}').getBoundingClientRect().top) < innerHeight")
    choose(b, "hook", "blocks.1.hook_resid_post")
    left = "Array.from(document.querySelectorAll('#contents li')).filter((l) => l.checkVisibility()).length"
    assert b.js(left) == 5  # all metrics there, plots, the part, its only table, known truth; two SAEs there are not
    assert b.faults() == []


def test_all_headline_metrics_of_an_sae_are_one_row_with_ranks_and_controls_below(opened, tmp_path):
    folder = small(tmp_path / "r")
    put(folder, "lab/a_1", "token_rules", {"rule_f1": 0.5})
    b = opened(folder)
    assert b.js(SHOWN) == ["lab/a_1", "lab/b_2", "lab/c_3"]
    heads = b.js("Array.from(document.querySelectorAll('.overview thead tr')[1].cells, (c) => c.dataset.id || '')")
    assert heads[4:-1] == [
        "reconstruction.fvu", "loss_recovered.kl", "loss_recovered.delta_ce", "reconstruction.norm_ratio",
        "sparsity.dead_fraction", "token_rules.rule_f1",
    ]  # fmt: skip
    assert b.js(f"{OVER}[1].cells[4].innerText").split("\n") == [
        "0.110",
        "[0.099, 0.121]",
        "rank 1-2 of 2 at L0 32-34.5",
    ]
    assert b.js(f"{OVER}[1].cells[9].textContent") == ""
    controls = "document.querySelector('.overview tbody.controls').rows"
    assert b.js(f"{controls}[0].cells[0].textContent") == "control: mean"
    assert b.js(f"{controls}[0].cells[4].textContent") == "1"
    ink = "getComputedStyle({}).color"
    assert b.js(ink.format(f"{controls}[0].cells[4]")) != b.js(ink.format(f"{OVER}[0].cells[4]"))


def test_a_metric_is_of_the_conditions_of_most_saes_and_others_say_that_they_are_elsewhere(tmp_path):
    for name in ("a", "b"):
        put(tmp_path, name, "reconstruction", {"fvu": 0.1})
    put(tmp_path, "c", "reconstruction", {"fvu": 0.01}, data_sha256="9" * 64)
    put(tmp_path, "c", "loss_recovered", {"kl": 0.01})
    (one,) = overviews(make(tmp_path))
    assert [row.sae.name for row in one.rows] == ["a", "b", "c"]
    assert [set(row.cells) for row in one.rows] == [{"reconstruction.fvu"}] * 2 + [{"loss_recovered.kl"}]
    assert {name for name, _ in one.elsewhere["reconstruction.fvu"]} == {"c"}
    assert '<b class="mark">elsewhere</b>' in html(tmp_path)


def test_results_of_two_suites_share_no_table_no_overview_and_no_plot(opened, tmp_path):
    demo, other = "demo-v1@" + "ab" * 32, "x@" + "cd" * 32
    for name, suite in (("a", demo), ("b", demo), ("c", other), ("d", None)):
        put(tmp_path / "r", name, "reconstruction", {"fvu": 0.1}, suite=suite)
        put(tmp_path / "r", name, "sparsity", {"l0": 32.0, "dead_fraction": 0.1}, suite=suite)
    tables = make(tmp_path / "r").tables
    labels = {"unofficial (no suite)": {"d"}, "unofficial, named demo-v1 (abababab)": {"a", "b"}}
    labels |= {"unofficial, named x (cdcdcdcd)": {"c"}}  # nothing here knows files of such digests
    assert {t.suite: {row.sae.name for row in t.rows} for t in tables} == labels
    b = opened(tmp_path / "r")
    bodies = "Array.from(document.querySelectorAll('.overview tbody:not(.controls)'), (t) => t.rows.length)"
    assert b.js(bodies) == [1, 2, 1]
    assert b.js("Array.from(document.getElementById('place').options, (o) => o.textContent)") == [
        f"{label}, gpt2, blocks.0.hook_resid_post" for label in labels
    ]
    choose(b, "suite", "unofficial, named x (cdcdcdcd)")
    assert b.js("document.getElementById('count').textContent") == "1 of 4 SAEs"
    assert b.js("document.getElementById('place').options.length") == 1
    reopened(b)
    assert b.js(SHOWN.replace(OVER, "Array.from(document.querySelectorAll('.overview:not([hidden]) tbody tr'))")) == [
        "c", "control: mean",
    ]  # fmt: skip


def test_what_was_trained_is_shown_and_what_is_computed_stands_beside_it(opened, tmp_path):
    for name, stored in (("a", "jumprelu"), ("b", None)):
        file = put(tmp_path / "r", name, "reconstruction", {"fvu": 0.1}, architecture="batchtopk")
        content = json.loads(file.read_text())
        content["sae"]["provenance"] = {} if stored is None else {INFERENCE: stored}
        file.write_text(json.dumps(content))
    b = opened(tmp_path / "r", f"#sae-{key('a')}")
    b.until("document.getElementById('detail').innerText.includes('batchtopk (computed as jumprelu)')")
    b.js("location.hash = '#'")
    assert b.js(f"{OVER}.map((r) => [r.cells[1].textContent, r.cells[1].title])") == [
        ["batchtopk", "computed as jumprelu"], ["batchtopk", ""],
    ]  # fmt: skip


# --- links


def test_a_link_to_an_sae_survives_other_rows_another_order_and_other_names(opened, tmp_path):
    put(tmp_path / "r", "mine", "reconstruction", {"fvu": 0.1}, sha="ab" * 32)
    b = opened(tmp_path / "r")
    link = b.js("document.querySelector('.overview tbody a').hash")
    assert link == f"#sae-{'ab' * 6}"
    for name, fvu in (("aaa", 0.01), ("zzz", 0.5)):
        put(tmp_path / "more", name, "reconstruction", {"fvu": fvu})
    put(tmp_path / "more", "renamed", "reconstruction", {"fvu": 0.1}, sha="ab" * 32)
    b = opened(tmp_path / "more", link)
    b.until("document.querySelector('#detail h1')?.textContent === 'renamed'")
    b = opened(tmp_path / "more", f"#row-{'ab' * 6}")
    b.until("document.querySelector('tr.pointed')?.cells[0].textContent === 'renamed'")
    b = opened(tmp_path / "more", f"#sae-{'cd' * 6}")
    assert b.js("!document.getElementById('missing').hidden && !document.getElementById('main').hidden")
    assert b.faults() == []


def test_saes_of_one_digest_and_digests_that_are_none_have_names_of_their_own():
    def sae(name, sha):
        return result(name, sha).sae

    named = of_saes(
        [sae("b", "ab" * 32), sae("a", "ab" * 32), sae("c", '"><script>'), sae("d", "AB" * 32), sae("e", "")]
    )
    assert list(named) == [("b", "ab" * 32), ("a", "ab" * 32), ("c", '"><script>'), ("d", "AB" * 32), ("e", "")]
    assert named["a", "ab" * 32] == "ab" * 6
    assert named["b", "ab" * 32].startswith("ab" * 6 + "-")
    assert len(set(named.values())) == 5
    assert all(set(one) <= set("0123456789abcdef-") for one in named.values())


# --- the address


def test_filters_sorting_and_what_is_plotted_come_back_from_the_address(opened, tmp_path):
    b = opened(small(tmp_path / "r"))
    choose(b, "hook", "blocks.0.hook_resid_post")
    choose(b, "name", "lab/")
    click(b, ".scores", 5)  # KL: b, a, c
    click(b, ".overview", 0)
    click(b, ".overview", 0)
    b.js("document.getElementById('show-names').click()")
    menu = "document.getElementById('y0')"
    b.js(f"{menu}.value = 'reconstruction.norm_ratio'; {menu}.dispatchEvent(new Event('change'))")
    b.js("document.getElementById('pair-b').selectedIndex = 2;"
         "document.getElementById('pair-b').dispatchEvent(new Event('change'))")  # fmt: skip
    said = hash_of(b)
    reopened(b)
    assert hash_of(b) == said
    assert b.js("document.getElementById('filter-name').value") == "lab/"
    assert b.js("document.getElementById('filter-hook').value") == "blocks.0.hook_resid_post"
    assert b.js(f"{SCORES}.map((r) => r.cells[0].textContent)") == ["lab/b_2", "lab/a_1", "lab/c_3"]
    assert b.js(SHOWN) == ["lab/c_3", "lab/b_2", "lab/a_1"]
    assert b.js("document.getElementById('show-names').checked") is False
    assert b.js(f"{menu}.value") == "reconstruction.norm_ratio"
    assert b.js("document.getElementById('pair-b').selectedOptions[0].textContent") == "lab/c_3"
    b.js("document.getElementById('reset').click()")
    assert b.js("document.getElementById('count').textContent") == "4 of 4 SAEs"
    assert "name=" not in hash_of(b)
    assert "sort=" in hash_of(b)
    assert b.faults() == []


def test_a_link_within_the_page_keeps_what_is_chosen_and_an_address_from_elsewhere_replaces_it(opened, tmp_path):
    b = opened(small(tmp_path / "r"))
    choose(b, "architecture", "topk")
    b.js("document.querySelector('.overview tbody a').click()")
    b.until("!document.getElementById('detail').hidden && location.hash.includes('architecture=topk')")
    assert hash_of(b).startswith(f"#sae-{key('lab/a_1')}?")
    b.js("history.back()")
    b.until("document.getElementById('detail').hidden")
    assert b.js(SHOWN) == ["lab/a_1"]
    b.js("location.hash = '#?architecture=relu'")
    b.until(f"{SHOWN}.join() === 'lab/c_3'")


ADDRESSES = [
    "#%3Cscript%3Ealert(1)%3C/script%3E",
    "#sae-<img src=x onerror=alert(1)>",
    "#sae-__proto__",
    "#row-%00",
    "#%E0%A4%A?x=%E0%A4%A",
    "#main",
    "#data",
    "#?architecture=%3Cimg%20src=x%20onerror=alert(1)%3E&width=__proto__&model=constructor&suite=x",
    "#?sort=__proto__.1.up,o-x.0.up,data.0.up,.0.up,t-1.999.down",
    "#?sort=" + "a.1.up," * 500,
    "#?at=javascript:alert(1)&x0=-1&y0=1e9&x1=__proto__&y1=%22&in=9&a=../../x&b=null&hide=names%00,%3Cb%3E",
    "#?__proto__=1&constructor=2&toString=3&hasOwnProperty=4",
    "#?name=%3Cscript%3E",
]  # fmt: skip


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_hostile_address_does_nothing(browser, tmp_path, address):
    file = tmp_path / "board.html"
    file.write_text(html(small(tmp_path / "r")), encoding="utf-8")
    browser.open(file, address)
    browser.until("document.getElementById('count').textContent !== ''")
    hidden = "name=" in address
    assert browser.js("document.getElementById('count').textContent") == f"{0 if hidden else 4} of 4 SAEs"
    assert browser.js("document.getElementById('main').hidden") is False
    assert hidden or browser.js(SHOWN) == ["lab/a_1", "lab/b_2", "lab/c_3"]
    assert browser.js("document.querySelectorAll('#main img, #main b:not(.about b), #detail *').length") == 0
    assert browser.js("({}).polluted === undefined && Object.keys(Object.prototype).length") == 0
    assert browser.faults() == []


# --- two SAEs

PAIR = "Array.from(document.querySelectorAll('#pair-table tbody tr'), (r) => Array.from(r.cells, (c) => c.textContent))"


def pair(b, one, other):
    for name, chosen in (("a", one), ("b", other)):
        menu = f"document.getElementById('pair-{name}')"
        b.js(f"{menu}.value = {json.dumps(key(chosen))}; {menu}.dispatchEvent(new Event('change'))")
    return {row[0]: row[1:] for row in b.js(PAIR)}


def test_two_saes_have_their_difference_with_its_interval_where_units_are(opened, tmp_path):
    measured(tmp_path / "r", "good", 0.1)
    measured(tmp_path / "r", "bad", 0.2)
    b = opened(tmp_path / "r")
    rows = pair(b, "good", "bad")
    _, _, difference, verdict = rows["FVU ↓"]
    value, low, high = (float(one.strip("[],")) for one in difference.split())
    assert 0 < low < value < high
    assert verdict == "B is worse"
    assert rows["L0"] == ["32", "32", "", "about the same"]
    turned = pair(b, "bad", "good")["FVU ↓"]
    assert turned[3] == "B is better"
    assert turned[2].split()[0] == f"-{difference.split()[0]}"
    b.js("document.getElementById('pair-swap').click()")
    assert {row[0]: row[1:] for row in b.js(PAIR)}["FVU ↓"][3] == "B is worse"
    assert f"a={key('good')}" in hash_of(b)
    pair(b, "good", "good")
    assert "Choose two different SAEs" in b.js("document.getElementById('pair-table').textContent")
    assert b.faults() == []


def test_without_units_and_at_another_l0_nothing_is_pretended(opened, tmp_path):
    measured(tmp_path / "r", "a", 0.1)
    measured(tmp_path / "r", "far", 0.2, l0=64.0)
    measured(tmp_path / "r", "bare", 0.2, units=False)
    put(tmp_path / "r", "a", "loss_recovered", {"kl": 0.5})
    b = opened(tmp_path / "r")
    rows = pair(b, "a", "far")
    assert "[" in rows["FVU ↓"][2]
    assert rows["FVU ↓"][3] == "at other L0: not ranked"
    assert rows["KL ↓"][1:] == ["", "", "measured of one alone"]
    rows = pair(b, "a", "bare")
    assert rows["FVU ↓"][2].endswith(", no interval")
    assert rows["FVU ↓"][3] == "not tested: no units here"
    colours = "Array.from(document.querySelectorAll('#pair-table .better, #pair-table .worse')).length"
    assert b.js(colours) == 0


def test_units_that_cannot_be_used_are_a_reason_and_not_the_end(tmp_path):
    measured(tmp_path, "a", 0.1)
    measured(tmp_path, "b", 0.2)
    for file in tmp_path.glob("b/*/reconstruction*.safetensors"):
        file.write_bytes(b"no units")
    (one,) = overviews(make(tmp_path))
    made, more = pairs.Pairs().of(one)
    assert not more
    assert any(isinstance(row[3], str) and "units" in row[3] for row in made)


def test_no_more_pairs_are_compared_than_a_page_affords_nearest_l0_first(opened, tmp_path):
    for name, l0 in (("a", 16.0), ("b", 17.0), ("c", 64.0)):
        measured(tmp_path, name, 0.1, l0=l0)
    (one,) = overviews(make(tmp_path))
    made, more = pairs.Pairs(most=1).of(one)
    assert more
    assert [[one.rows[i].sae.name for i in row[:2]] for row in made] == [["a", "b"]]


# --- CSV

TAKE = """(() => { window.made = []; const own = URL.createObjectURL;
  URL.createObjectURL = (blob) => { window.made.push(blob); return own.call(URL, blob); };
  HTMLAnchorElement.prototype.click = function () { window.named = this.download; }; })()"""


def taken(b, section):
    b.js(TAKE)
    b.js(f"document.querySelector('{section} .csv').click()")
    text = b.js("window.made.pop().text()")
    return text, list(csv.DictReader(io.StringIO(text, newline="")))


def test_the_csv_is_what_is_shown(opened, tmp_path):
    b = opened(small(tmp_path / "r"))
    choose(b, "name", "lab/")
    click(b, ".scores", 5)
    text, rows = taken(b, ".scores")
    assert text.endswith("\r\n")
    assert [row["sae"] for row in rows] == ["lab/b_2", "lab/a_1", "lab/c_3", "control: mean"]
    first = rows[0]
    assert (first["architecture"], first["width"], first["l0"], first["model"]) == ("jumprelu", "1024", "34.5", "gpt2")
    assert first["weights_sha256"] == b"lab/b_2".hex().ljust(64, "0")
    assert [float(first[f"reconstruction.fvu{end}"]) for end in ("", " low", " high")] == [0.11, 0.099, 0.121]
    assert first["reconstruction.fvu rank"] == "rank 1-2 of 2 at L0 32-34.5"
    assert rows[-1]["reconstruction.fvu"] == "1"
    choose(b, "architecture", "topk")
    _, rows = taken(b, ".overview")
    assert [row["sae"] for row in rows] == ["lab/a_1", "control: mean"]
    assert b.js("window.named").startswith("sae-bench-o-")


def test_a_control_that_differs_between_saes_has_its_lowest_and_highest_in_the_csv(opened, tmp_path):
    for name, level in (("a", 0.5), ("b", 2.5)):
        file = put(tmp_path / "r", name, "reconstruction", {"fvu": 0.1})
        content = json.loads(file.read_text())
        content["controls"]["mean"]["fvu"] |= {"value": level, "low": None, "high": None}
        file.write_text(json.dumps(content))
    _, rows = taken(opened(tmp_path / "r"), ".scores")
    assert [rows[-1][f"reconstruction.fvu{end}"] for end in ("", " low", " high")] == ["", "0.5", "2.5"]


@pytest.mark.parametrize("name", [*HOSTILE, "+1", "-1", "@x", "  =1+1", "\uff1dcmd", '"quoted", and=more'])
def test_no_cell_of_the_csv_is_a_formula(opened, tmp_path, name):
    put(tmp_path / "r", name, "reconstruction", {"fvu": 0.1}, architecture=name, model=name)
    text, rows = taken(opened(tmp_path / "r"), ".scores")
    for row in rows:
        assert None not in [*row, *row.values()], text
        for value in row.values():
            assert value.lstrip()[:1] not in tuple("=+-@\uff1d"), value


# --- on a phone, in the dark


@pytest.fixture
def sized(browser):
    def to(width, dark=False):
        size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.send("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        browser.send("Emulation.setEmulatedMedia", features=[scheme])

    yield to
    browser.send("Emulation.clearDeviceMetricsOverride")
    browser.send("Emulation.setEmulatedMedia", features=[])


@pytest.mark.parametrize("width", [390, 820, 1440])
def test_the_body_never_scrolls_sideways_and_names_stay_in_sight(opened, sized, tmp_path, width):
    long = "lab/" + "a-very-long-name-of-an-sae_" * 8
    small(tmp_path / "r")
    for name in (long, "x" * 200):
        put(tmp_path / "r", name, "reconstruction", {"fvu": 0.1}, architecture="y" * 60, model="m" * 80)
        put(tmp_path / "r", name, "sparsity", {"l0": 3.0}, model="m" * 80)
    sized(width)
    b = opened(tmp_path / "r")
    b.until("document.querySelectorAll('.chart svg.marks').length === 2")
    assert b.js("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    box = "document.querySelector('.overview .wide')"
    b.js(f"{box}.scrollLeft = 200")
    assert b.js(f"{box}.scrollWidth <= {box}.clientWidth || {box}.scrollLeft > 0")
    left = f"{box}.querySelector('tbody td').getBoundingClientRect().left - {box}.getBoundingClientRect().left"
    assert b.js(f"Math.abs({left}) < 2")
    assert b.js(f"{box}.querySelector('tbody td').getBoundingClientRect().width < 0.6 * innerWidth")
    assert b.js(f"{box}.querySelector('tbody td').getBoundingClientRect().width > 100"), "no column of single letters"
    b.js("document.querySelector('.overview tbody a').click()")
    b.until("!document.getElementById('detail').hidden")
    assert b.js("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def luminance(colour):
    red, green, blue = (int(part) for part in colour.removeprefix("rgb(").rstrip(")").split(",")[:3])
    return (0.2126 * red + 0.7152 * green + 0.0722 * blue) / 255


@pytest.mark.parametrize("dark", [False, True])
def test_text_can_be_read_in_the_light_and_in_the_dark(opened, sized, tmp_path, dark):
    sized(1440, dark)
    b = opened(small(tmp_path / "r"))
    b.until("document.querySelectorAll('.chart svg.marks').length === 2")
    paper = luminance(b.js("getComputedStyle(document.body).backgroundColor"))
    assert (paper < 0.2) == dark
    for one in ("td", "td i", ".controls td", ".note", "h2", "select", ".overview a", "th button"):
        ink = luminance(b.js(f"getComputedStyle(document.querySelector('{one}')).color"))
        assert abs(ink - paper) > 0.3, one
    fills = b.js("Array.from(document.querySelectorAll('.chart svg text'), (t) => t.getAttribute('fill'))")
    assert fills
    for fill in {one for one in fills if one and one.startswith("#")}:
        ink = sum(int(fill[i : i + 2], 16) for i in (1, 3, 5)) / 765
        assert abs(ink - paper) > 0.3, fill


def test_on_paper_it_is_light_and_no_table_is_cut(opened, sized, browser, tmp_path):
    """A table with a scroll bar would lose on paper what is not in sight."""
    sized(1000, dark=True)
    b = opened(small(tmp_path / "r"))
    b.until("document.querySelectorAll('.chart svg.marks').length === 2")
    dark = {"name": "prefers-color-scheme", "value": "dark"}
    browser.send("Emulation.setEmulatedMedia", media="print", features=[dark])
    try:
        paper = luminance(b.js("getComputedStyle(document.body).backgroundColor"))
        assert paper > 0.9
        for one in ("td", "td i", ".controls td", ".note", "h2"):
            assert paper - luminance(b.js(f"getComputedStyle(document.querySelector('{one}')).color")) > 0.3, one
        assert paper - luminance(b.js("getComputedStyle(document.querySelector('.chart svg text')).fill")) > 0.5
        assert b.js("Array.from(document.querySelectorAll('.wide'), (e) => getComputedStyle(e).overflowX)") == [
            "visible"
        ] * b.js("document.querySelectorAll('.wide').length")
        assert b.js("getComputedStyle(document.getElementById('filters')).display") == "none"
    finally:
        browser.send("Emulation.setEmulatedMedia", media="", features=[])


# --- on the plots


def test_names_controls_and_bands_stand_on_the_plots_and_can_be_left_out(opened, tmp_path):
    folder = small(tmp_path / "r")
    for name, l0 in (("lab/a_1", 32.0), ("lab/b_2", 34.5)):  # a control at each one's own L0
        for file in folder.glob(f"{name.replace('/', '__')}/*/*.json"):
            content = json.loads(file.read_text())
            if "controls" in content:
                own = {"l0": l0, "fvu": 0.7, "kl": 0.6}
                content["controls"]["random"] = {
                    metric: content["metrics"][metric] | {"value": value, "low": None, "high": None}
                    for metric, value in own.items()
                    if metric in content["metrics"]
                }
                file.write_text(json.dumps(content))
    b = opened(folder)
    b.until("document.querySelectorAll('.chart svg.marks').length === 2")
    texts = "Array.from(document.querySelectorAll('#chart0 .mark-text.role-mark text'), (t) => t.textContent)"
    assert set(b.js(texts)) == {"a_1", "b_2", "c_3", "mean", "random"}
    band = "document.querySelectorAll('#chart0 .mark-rect.role-mark path').length"
    assert b.js(band) == 1  # 32 and 34.5 are ranked among each other, 64 alone
    crosses = "document.querySelectorAll('#chart0 .mark-symbol.role-mark path').length"
    assert b.js(crosses) == 5  # three SAEs, two points of the control
    for what in ("names", "controls", "bands"):
        b.js(f"document.getElementById('show-{what}').click()")
    b.until(f"{texts}.filter(Boolean).length === 0 && {crosses} === 3")
    assert "hide=names%2Ccontrols%2Cbands" in hash_of(b)
    assert b.faults() == []


def test_the_rows_of_an_overview_do_not_depend_on_how_results_are_written(tmp_path):
    names = ["a", "b", "c"]
    for folder, order in (("x", names), ("y", names[::-1])):
        for name in order:
            measured(tmp_path / folder, name, 0.1, sha=hashlib.sha256(name.encode()).hexdigest())
    assert html(tmp_path / "x") == html(tmp_path / "y")
    assert store.units_of(next((tmp_path / "x").glob("a/*/reconstruction*.json"))).exists()
