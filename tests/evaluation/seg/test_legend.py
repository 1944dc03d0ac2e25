import numpy as np

from evaluation.seg.draw import font_of
from evaluation.seg.legend import NARROWEST, with_legend

RED, BLUE = (255, 0, 0), (0, 0, 255)


def dark(part):
    return (part.astype(int).sum(axis=2) < 200).any()


def test_the_image_stays_and_each_colour_has_a_swatch():
    image = np.full((40, 400, 3), 100, dtype=np.uint8)
    drawn = with_legend(image, [("a.jpg", None), ("cat (2)", RED), ("dog (1)", BLUE)])
    np.testing.assert_array_equal(drawn[:40], image)
    strip = drawn[40:]
    assert strip.shape == (30, 400, 3)  # one row
    for colour in (RED, BLUE):
        assert 80 < (strip == colour).all(axis=2).sum() < 150  # a square of 12, and its outline
    assert dark(strip)


def test_what_does_not_fit_into_a_row_goes_on_in_the_next():
    image = np.zeros((40, 60, 3), dtype=np.uint8)
    pieces = [(f"category number {n}", RED) for n in range(6)]
    drawn = with_legend(image, pieces)
    assert drawn.shape[1] == NARROWEST
    assert (drawn[:40, 60:] == 255).all()  # the margin beside a narrow image
    # Two of about 120 px and a swatch in a row of 320.
    assert drawn.shape[0] == 40 + 3 * 22 + 8


def test_long_text_is_cut_at_the_border():
    name = "a very long name of a file " * 5
    drawn = with_legend(np.zeros((40, 400, 3), dtype=np.uint8), [(name, None)])
    assert font_of(14).getlength(name) > 400
    assert drawn.shape == (40 + 22 + 8, 400, 3)
    assert not dark(drawn[40:, -8:])
    assert dark(drawn[40:, -60:-8])
