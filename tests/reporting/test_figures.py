import base64
import io
import subprocess
import sys
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from engine.reporting.figure_rows import Curve, curves_of
from engine.reporting.figures import (
    ATTACK,
    CEILING,
    FLOOR,
    draw_attacks,
    draw_curves,
    montage,
    png_data_uri,
)
from engine.reporting.tables import Estimate, table_rows
from tests.reporting.conftest import with_images_per_client, with_second_searcher


def decoded(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,"))))


def test_an_image_is_kept_pixel_for_pixel():
    image = np.zeros((3, 4, 5), dtype=np.float32)
    image[0, 1, 2] = 1.0
    image[1, 3, 4] = 7.5
    image[2, 0, 0] = np.nan

    pixels = np.asarray(decoded(png_data_uri(image)))

    assert pixels.shape == (4, 5, 3)
    assert pixels[1, 2].tolist() == [255, 0, 0]
    assert pixels[3, 4].tolist() == [0, 255, 0]
    assert pixels[0, 0].tolist() == [0, 0, 0]


def test_an_image_of_one_channel_is_grey():
    picture = decoded(png_data_uri(np.full((1, 4, 5), 0.5)))

    assert (picture.mode, picture.size, picture.getpixel((0, 0))) == ("L", (5, 4), 128)


def test_curves_are_drawn_as_svg_that_follows_the_theme(summary):
    svg = draw_curves(curves_of(summary, table_rows(summary)[0]))

    assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert "prefers-color-scheme: dark" in svg
    assert "<script" not in svg
    assert "DOCTYPE" not in svg
    assert svg == draw_curves(curves_of(summary, table_rows(summary)[0]))


def test_a_curve_without_points_is_an_empty_panel():
    assert "</svg>" in draw_curves([Curve(name="PSNR, dB", runs=[[]], median=[])])


def test_attacks_are_drawn_side_by_side_in_one_panel_a_defense(summary):
    with_second_searcher(summary, ggl=15.5)
    rows = table_rows(summary)
    many = [replace(row, defense=f"{n}: $\\frac{{") for n in range(7) for row in rows[:2]]
    unknown = [replace(row, psnr=Estimate(None), prior_only=None, oracle=None) for row in rows]

    svg, more, less = map(draw_attacks, (rows, many, unknown))

    assert (svg.count('id="axes_'), more.count('id="axes_')) == (2, 7)
    assert svg == draw_attacks(rows)
    assert "prefers-color-scheme: dark" in svg
    assert ATTACK in svg
    drawn = less.partition("</style>")[2]
    assert not any(colour in drawn for colour in (ATTACK, FLOOR, CEILING))


def test_the_montage_grows_with_targets_and_survives_gaps_and_formulas(summary, images):
    whole = Image.open(io.BytesIO(montage(summary, images)))
    for entry in (*summary["verdict"]["defenses"], *summary["groups"], *summary["trials"]):
        entry["defense"] = entry["defense"].replace("sparsification", r"$\frac{")
    for name in ("none-ggl-1", "target/2"):
        del images[name]
    fewer = Image.open(io.BytesIO(montage(summary, images)))

    assert whole.format == "PNG"
    assert fewer.width < whole.width
    assert fewer.height == whole.height


def test_the_montage_shows_every_image_of_a_client(summary, images):
    one = np.asarray(Image.open(io.BytesIO(montage(summary, images))))
    several = np.asarray(Image.open(io.BytesIO(montage(*with_images_per_client(3, images)))))

    # Two columns and two rows for three images: the fourth place stays white.
    def painted(picture):
        return int((picture[60:, 460:, :3].min(2) < 128).sum())

    assert several.shape[1] > 1.5 * one.shape[1] - 460
    assert several.shape[0] > 1.5 * one.shape[0]
    assert painted(several) == pytest.approx(3 * painted(one), rel=0.1)


def test_importing_the_reports_does_not_import_matplotlib():
    code = "import sys, engine.reporting; sys.exit('matplotlib' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
