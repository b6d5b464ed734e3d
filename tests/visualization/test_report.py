"""The report is a self-contained page, names broken images and opens in a browser."""

import base64
import dataclasses
import functools
import io
from html.parser import HTMLParser
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from small_detector import by_hand, picture
from visualization.browser import find_chromium, open_browser

from keras_dyhead.coco import SHAPES
from keras_dyhead.visualization import write_report
from keras_dyhead.visualization.page import Picture, Section, render_page
from keras_dyhead.visualization.report import level_of_box


class Page(HTMLParser):
    """The elements and addresses of a page."""

    ADDRESSES = ("src", "href", "srcset", "action", "data", "poster", "background", "formaction")

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self._open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._open.append(tag)

    def handle_data(self, data):
        self.texts.append(data)

    def external(self):
        """Addresses outside the page, including those in its style sheets."""
        found = [
            value
            for _, attributes in self.elements
            for name, value in attributes.items()
            if name in self.ADDRESSES and urlsplit(value).scheme != "data"
        ]
        styles = " ".join([*self.texts, *(a.get("style", "") for _, a in self.elements)])
        return found + [part for part in ("url(", "@import", "image-set(") if part in styles]

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two images with awkward names, and a broken one."""
    folder = tmp_path_factory.mktemp("report")
    Image.fromarray(picture(64, 80)).save(folder / 'a & <b> "c".png')
    Image.fromarray(picture(90, 64)).save(folder / "tall.jpg")
    (folder / "torn.jpg").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def report(small_model, folder):
    paths = sorted(folder.iterdir())
    detect = functools.partial(by_hand, small_model)
    return write_report(small_model, paths, folder / "out", detect, None, 0, num_sampled=1)


@pytest.fixture(scope="module")
def page(report):
    return Page(report.page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["scale_weights.png", "tall_attention.png", "tall_sampling_2.png"])
def test_no_image_is_replaced(small_model, folder, name):
    images, content = [folder / "tall.jpg", folder / name], (folder / "tall.jpg").read_bytes()
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} would be replaced"):
        write_report(small_model, images, folder, None)
    assert (folder / name).read_bytes() == content
    (folder / name).unlink()


def test_the_parser_finds_external_addresses():
    """Otherwise the next test could not fail."""
    for text in (
        "<img src='x.png'>",
        "<script src='https://example.org/x.js'></script>",
        "<link rel=stylesheet href='//example.org/x.css'>",
        "<style>body { background: url(x.png) }</style>",
        "<p style='background: url(https://example.org)'>",
        "<a href='other.html'>other</a>",
    ):
        assert Page(text).external(), text


def test_the_page_has_no_external_addresses(page):
    assert page.external() == []
    assert not page.all("script") and not page.all("iframe") and not page.all("object")


def test_the_page_contains_the_same_pictures_as_the_folder(report, page):
    pictures = sorted(path for path in report.page.parent.iterdir() if path.suffix == ".png")
    assert pictures == sorted(report.pictures)
    assert sorted(path.name for path in pictures) == sorted(
        [
            *(f'a & <b> "c"_{kind}.png' for kind in ("detections", "attention", "sampling_1")),
            *(f"tall_{kind}.png" for kind in ("detections", "attention", "sampling_1")),
            "scale_weights.png",
        ]
    )
    inside = {base64.b64decode(image["src"].split(",")[1]) for image in page.all("img")}
    assert inside == {path.read_bytes() for path in pictures}
    for image in page.all("img"):
        opened = Image.open(io.BytesIO(base64.b64decode(image["src"].split(",")[1])))
        assert (image["width"], image["height"]) == tuple(map(str, opened.size))


def test_pictures_are_described_and_detections_counted(small_model, page):
    alts = [image["alt"] for image in page.all("img")]
    assert all(len(alt) > 30 for alt in alts) and len(set(alts)) == len(alts) == 7
    labels = by_hand(small_model, picture(64, 80))["labels"]
    for label, name in enumerate(SHAPES):
        count = int(np.sum(labels == label))
        assert not count or f"{count} {name}" in alts[1]


def test_names_are_escaped_and_broken_images_named(report, page):
    text = "".join(page.texts)
    assert 'a & <b> "c".png' in text and not page.all("b")
    (fault,) = report.faults
    assert "torn.jpg is not a readable" in fault and fault in text


def test_the_facts_match_the_model(small_model, page):
    text, neck = "".join(page.texts), small_model.neck
    assert f"{small_model.count_params():,}, {neck.count_params():,} of them in DyHead" in text
    assert "2 blocks of 16 channels" in text and f"5: {', '.join(SHAPES)}" in text


def test_the_level_of_a_box_has_eight_cells_to_a_side(view):
    view = dataclasses.replace(view, strides=[(8, 8), (16, 16), (32, 32)])
    sides = {10: "P3", 64: "P3", 85: "P3", 95: "P4", 128: "P4", 256: "P5", 2000: "P5"}
    for side, level in sides.items():
        assert level_of_box(np.array([0, 0, side, side]), view) == level, side
    assert level_of_box(np.array([0, 0, 32, 128]), view) == "P3"  # an area of 64 x 64


CHROMIUM = find_chromium()
BAD_PAGE = """<!doctype html><link rel="icon" href="data:,"><img src="missing.png" alt="">
<script>console.error("told"); undefined.x;</script>"""


@pytest.fixture(scope="module")
def tab():
    if not CHROMIUM:
        pytest.skip("no Chromium on this machine, on the search path or of Playwright")
    with open_browser(CHROMIUM) as tab:
        yield tab


def test_the_browser_reports_requests_and_errors(tab, tmp_path):
    """Otherwise the next test could not fail."""
    (tmp_path / "bad.html").write_text(BAD_PAGE)
    tab.open((tmp_path / "bad.html").as_uri())
    assert [url.rsplit("/", 1)[1] for url in tab.requests()] == ["missing.png"]
    assert len(tab.complaints()) >= 3


@pytest.mark.parametrize(("width", "dark"), [(390, True), (1280, False)])
def test_chromium_opens_the_report_without_errors_or_requests(tab, report, width, dark):
    """On a phone and on a desktop: no requests, no messages, nothing wider than the window."""
    tab.open(report.page.as_uri(), width, dark=dark)
    assert tab.requests() == [] and tab.complaints() == []
    assert tab.value("[...document.images].filter(i => i.complete && i.naturalWidth).length") == 7
    assert tab.value("document.documentElement.scrollWidth") <= width
    background = tab.value("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background[4:-1].split(","))) < 200) == dark


def test_the_page_blocks_external_content(tab, tmp_path):
    """Even an external address in a page is not requested."""
    section = Section("x", pictures=[Picture(b"", (1, 1), "alt", "caption")])
    text = render_page("title", [section]).replace("data:image/png;base64,", "missing.png")
    (tmp_path / "page.html").write_text(text)
    tab.open((tmp_path / "page.html").as_uri())
    assert tab.value("document.images.length") == 1
    refused = [c for c in tab.complaints() if "Content Security Policy" in str(c)]
    assert refused


def test_only_broken_images_are_an_error(small_model, folder, tmp_path):
    with pytest.raises(ValueError, match="no readable image among .*torn.jpg"):
        write_report(small_model, [folder / "torn.jpg"], tmp_path / "out", detect=None)
    assert not (tmp_path / "out").exists()
