import re
from html.parser import HTMLParser

import pytest

from engine.reporting import render_page
from engine.reporting.page import bar_of, flattened
from engine.reporting.tables import Estimate, percent, significant
from tests.reporting.conftest import with_images_per_client, with_second_searcher

VOID = {"meta", "br", "wbr", "img", "rect", "path", "circle"}
ADDRESSES = {"src", "href", "srcset", "action", "data", "poster", "xlink:href", "background"}


@pytest.fixture
def summary(summary):
    """The small audit without traces: drawing curves takes longest, and one test is enough."""
    for trial in summary["trials"]:
        trial["trace"] = []
    return summary


class Page(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.texts, self.open = [], [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self):
        return " ".join("".join(self.texts).split())

    def values(self, name):
        return [value for _, found, value in self.attributes if found == name]


def replaced(value, old, new):
    if isinstance(value, dict):
        return {key: replaced(inner, old, new) for key, inner in value.items()}
    if isinstance(value, list):
        return [replaced(inner, old, new) for inner in value]
    return new if value == old else value


def with_every(value, change):
    if isinstance(value, dict):
        return {key: with_every(inner, change) for key, inner in value.items()}
    if isinstance(value, list):
        return [with_every(inner, change) for inner in value]
    return change(value)


def test_the_page_is_well_formed_and_loads_nothing(summary, images):
    page = Page(render_page(summary, images))

    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert policy in page.values("content")
    loaded = [value for _, name, value in page.attributes if name in ADDRESSES]
    assert loaded
    assert all(value.startswith("data:image/") for value in loaded)
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]


def test_nothing_outside_the_pictures_names_an_address_on_the_network(summary, images):
    html = re.sub(r"base64,[A-Za-z0-9+/=]+", "", render_page(summary, images))

    assert "//" not in html
    assert "url(" not in html
    assert "@import" not in html


def test_the_curves_of_each_defense_are_on_the_page_with_a_description(summary):
    for trial in summary["trials"]:
        if trial["attack"] == "ggl":
            trial["trace"] = [[1, 0.5, 9.0], [1000, 0.1, 15.0]]
            trial["chunk_size"] = 28 if trial["defense"] == "none" else 16
            trial["cut_short"] = trial["defense"] == "none" and trial["target"] == 0

    page = Page(render_page(summary, None))

    curves = [value for value in page.values("src") if value.startswith("data:image/svg+xml")]
    assert len(curves) == 2
    assert sum("between a floor of 10.4 dB and a ceiling" in alt for alt in page.values("alt")) == 1
    assert "The attacker imitates, on the first image: the largest 10 % of entries" in page.text
    assert page.text.count("Candidates were compared by kernels.") == 2
    assert page.text.count("Memory had room for 16 of a population of 28 at once.") == 1
    assert page.text.count("searches ran out of time and were cut short, one of them after") == 1
    assert "No search left a trace." in Page(render_page({**summary, "trials": []}, None)).text


def test_every_text_of_the_summary_is_escaped(summary, images):
    attack = "<script>alert(1)</script>\"'&"
    keep = {"ggl", "prior_only", "shuffled", "random_best", "oracle", "any"}
    keep |= {trial["id"] for trial in summary["trials"]}
    summary["failed"] = [{"id": "f", "defense": "d", "attack": "a", "target": 3, "error": "e"}]
    hostile = with_every(
        summary, lambda leaf: leaf + attack if isinstance(leaf, str) and leaf not in keep else leaf
    )
    hostile["provenance"][attack] = 1

    html = render_page(hostile, images)

    assert "script" not in Page(html).tags
    assert "<script" not in html
    assert "sparsification(percent=90)<script>" in Page(html).text


def test_every_figure_of_every_group_is_on_the_page(summary):
    text = Page(render_page(summary, None)).text

    for group in summary["groups"]:
        assert group["attack"] in text
        for values in group["metrics"].values():
            for value in values.values():
                assert significant(value) in text
        for value in group["leakage_fraction"].values():
            assert percent(value) in text
        for name in ("top1", "top5", "chance", "low", "high", "features_top1", "features_top5"):
            assert percent(group["identification"][name]) in text
    assert "among 100" in text


def test_verdict_threat_card_provenance_and_limits_are_on_the_page(summary):
    text = Page(render_page(summary, None)).text

    for entry in (summary["verdict"], *summary["verdict"]["defenses"]):
        assert entry["status"] in text
        assert entry["sentence"] in text
    for row in summary["threat"]:
        assert row["what"] in text
        assert row["how"] in text
    assert "packages.torch" in text
    for limit in (
        "No detected leak is not absence of leak",
        "stronger generators",
        "averages the updates of many rounds",
        "other attackers",
        "malicious server",
        "white-box attack",
        "other target models",
        "batch > 1",
        "intervals speak about images alone",
        "6.02 dB lower",
        "entitled to audit",
        "leaktune run --config plan.resolved.yaml",
    ):
        assert limit in text


def test_the_page_promises_nothing(summary, images):
    text = Page(render_page(summary, images)).text

    assert not re.search(r"\b(safe|anonymous|guaranteed|is private)\b", text, re.IGNORECASE)


def test_images_stay_out_when_the_plan_says_so(summary):
    page = Page(render_page(summary, None))

    assert "stay in the run folder's private/" in page.text
    assert not [value for value in page.values("src") if value.startswith("data:image/png")]


def test_images_that_are_gone_are_said_to_be_gone(summary):
    summary["plan"]["images"] = {"report": True}

    page = Page(render_page(summary, None))

    assert "no longer holds all images" in page.text
    assert "The plan keeps images out" not in page.text


def test_each_image_is_shown_with_its_meaning(summary, images):
    page = Page(render_page(summary, images))

    pictures = [value for value in page.values("src") if value.startswith("data:image/png")]
    assert len(pictures) == 3 * 10
    assert "Attack, defense: none, image 0, 15.6 dB" in page.values("alt")
    assert all(page.values("alt"))
    assert page.tags.count("img") == len(page.values("alt"))
    assert page.tags.count("th") == len(page.values("scope"))
    assert page.tags.count("table") == page.tags.count("caption")


def test_no_images_at_all_is_said(summary):
    assert "There is no image to show." in render_page(summary, {})


def test_numbers_that_were_not_measured_are_dashes(summary, images):
    keep = {"target", "n"}
    for part in ("trials", "groups"):
        summary[part] = [
            {
                key: value if key in keep else with_every(value, _none_for_numbers)
                for key, value in entry.items()
            }
            for entry in summary[part]
        ]

    text = Page(render_page(summary, images)).text

    assert "–" in text
    assert "None" not in text
    assert "nan" not in text.split()


@pytest.mark.parametrize("name", ["metrics", "leakage_fraction", "identification"])
def test_a_group_may_lack_a_whole_field(summary, name):
    for group in summary["groups"]:
        group[name] = None

    assert "–" in Page(render_page(summary, None)).text


def test_an_audit_without_any_result_still_has_a_page(summary):
    summary |= {"groups": [], "trials": []}
    summary["failed"] = [
        {"id": "t-1", "defense": "none", "attack": "ggl", "target": 3, "error": "out of memory"}
    ]

    text = Page(render_page(summary, None)).text

    assert "Failed trials: 1" in text
    assert "out of memory" in text


def test_candidates_without_a_finite_loss_are_reported(summary):
    summary["trials"][0]["nonfinite"] = 7

    assert "18000 evaluated candidates, 7 had a loss" in Page(render_page(summary, None)).text


def test_the_bar_keeps_to_its_width():
    assert bar_of(Estimate()) is None
    assert bar_of(Estimate(0.5, 0.0, 1.0)).mean == 50.0
    bar = bar_of(Estimate(-3.0, -4.0, 9.0))
    assert (bar.low, bar.mean, bar.high) == (0.0, 0.0, 100.0)
    assert bar_of(Estimate(0.5)).low == 50.0


def test_provenance_is_flattened_to_names_and_texts():
    nested = {"a": {"b": 1, "c": None}, "d": [1, 2], "e": "x"}

    assert list(flattened(nested)) == [("a.b", "1"), ("a.c", "–"), ("d", "1, 2"), ("e", "x")]


def _none_for_numbers(leaf):
    return None if isinstance(leaf, int | float) else leaf


def test_every_image_of_a_client_is_shown(summary, images):
    pictures = Page(render_page(summary, images)).values("src")
    several, more = with_images_per_client(4, images)
    for trial in several["trials"]:
        trial["trace"] = []

    page = Page(render_page(several, more))

    assert len(page.values("src")) == 4 * len(pictures)
    assert "client 2" in page.text
    assert "image 2" not in page.text
    assert "batch > 1" not in page.text
    assert "batch > 1" in Page(render_page(summary, images)).text


def test_searchers_are_told_apart_wherever_there_are_several(summary):
    one = Page(render_page(summary, None)).text
    with_second_searcher(summary, ggl=15.5, shuffled=9.5)
    for trial in summary["trials"]:
        if trial["attack"] == "ggl" and trial["defense"] == "none":
            trial["trace"] = [[1, 0.5, 9.0], [1000, 0.1, 15.0]]
            trial["matching"] = f"kernels for {trial['searcher']}"

    text = Page(render_page(summary, None)).text

    assert "none · random" not in one
    assert "Attacks side by side" not in one
    assert "Attacks side by side" in text
    assert text.count("none · random") == 2  # In the verdict, and over its curves.
    assert "random, 3 searches" in text
    assert text.count("Candidates were compared by kernels for random.") == 1
    assert text.count("Candidates were compared by kernels for nevergrad:DiagonalCMA.") == 1


def test_a_page_of_several_seeds_says_that_a_target_counts_once(summary, images):
    one = Page(render_page(summary, images)).text
    again = [{**trial, "seed": 1, "id": f"{trial['id']}-seed1"} for trial in summary["trials"]]
    summary["trials"] += again

    text = Page(render_page(summary, images)).text

    said = ("attacked with 2 seeds, and counts once", "Of 2 seeds the first is shown.")
    assert [sentence in text for sentence in said] == [True, True]
    assert [sentence in one for sentence in said] == [False, False]


def test_a_failed_trial_is_listed_with_its_searcher_where_the_plan_has_several(summary):
    failed = {"id": "f", "defense": "none", "attack": "ggl", "target": 3, "error": "out of memory"}
    summary["failed"] = [failed | {"by": "sepcma"}, failed | {"by": None}]

    one = Page(render_page(summary, None)).text
    with_second_searcher(summary, ggl=15.5)
    several = Page(render_page(summary, None)).text

    assert one.count("(ggl on none, image 3): out of memory") == 2
    assert several.count("(ggl by sepcma on none, image 3): out of memory") == 1
    assert several.count("(ggl on none, image 3): out of memory") == 1
