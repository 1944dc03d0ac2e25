import numpy as np
import pytest

from callbacks.mil.bag_outputs import BagAttention
from callbacks.mil.slide_parts import SlidePart
from callbacks.results.prediction_files import overlay_names, write_attention


def bag(name, weights, witness=None, coords=None, parts=()):
    weights = np.array(weights, dtype=np.float32).reshape(len(weights), -1)
    return BagAttention(0, name, weights, witness, coords, parts)


def test_attention_with_all_columns(tmp_path):
    bags = [
        bag("a", [0.25, 0.75], np.array([0, 1]), np.array([[512, 0], [1024, 256]])),
        bag("b", [1.0], np.array([-1]), None),
    ]
    write_attention(tmp_path / "attention.csv", bags)
    assert (tmp_path / "attention.csv").read_text() == (
        "bag_id,instance,attention,witness,x,y\na,0,0.25,0,512,0\na,1,0.75,1,1024,256\nb,0,1.0,,,\n"
    )


def test_the_slides_of_patients_are_named(tmp_path):
    parts = (
        SlidePart("s0", slice(0, 1), np.array([[512, 0]])),
        SlidePart("s1", slice(1, 3)),  # without coordinates
    )
    bags = [bag("p", [0.5, 0.25, 0.25], parts=parts), bag("q", [1.0])]
    write_attention(tmp_path / "attention.csv", bags)
    assert (tmp_path / "attention.csv").read_text() == (
        "bag_id,slide_id,instance,attention,x,y\np,s0,0,0.5,512,0\np,s1,1,0.25,,\n"
        "p,s1,2,0.25,,\nq,,0,1.0,,\n"
    )


def test_attention_alone_and_with_branches(tmp_path):
    write_attention(tmp_path / "attention.csv", [bag("a", [0.5, 0.5])])
    text = (tmp_path / "attention.csv").read_text()
    assert text == "bag_id,instance,attention\na,0,0.5\na,1,0.5\n"
    write_attention(tmp_path / "attention.csv", [bag("a", [[1.0, 0.25], [0.0, 0.75]])])
    text = (tmp_path / "attention.csv").read_text()
    assert text == "bag_id,instance,attention_0,attention_1\na,0,1.0,0.25\na,1,0.0,0.75\n"


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["a.jpg", "b.tif"], ["a.png", "b.png"]),
        (["x/a.jpg", "y/a.jpg"], ["x/a.png", "y/a.png"]),  # folders keep equal names apart
        (["a.jpg", "a.png"], ["a.jpg.png", "a.png.png"]),
        (["a.jpg", "A.PNG"], ["a.jpg.png", "A.PNG.png"]),  # a system may ignore case
        (["a.jpg", "A.JPG", "a.jpg"], ["a.jpg.png", "A.JPG_2.png", "a.jpg_3.png"]),
        (["a.png.jpg", "a.png", "a.jpg"], ["a.png.png", "a.png_2.png", "a.jpg.png"]),
        (["v1.2/shot", ".hidden"], ["v1.2/shot.png", ".hidden.png"]),
    ],
)
def test_overlays_are_named_by_their_file(files, names):
    records = [{"id": n, "file_name": name} for n, name in enumerate(files, start=1)]
    assert list(overlay_names(records).values()) == names


@pytest.mark.parametrize(
    "file", ["/etc/a.jpg", "../../etc/a.jpg", "..\\etc\\a.jpg", "etc/../etc/a.jpg"]
)
def test_no_name_leads_out_of_the_folder(file):
    (name,) = overlay_names([{"id": 1, "file_name": file}]).values()
    assert name in ("etc/a.png", "etc/etc/a.png")
    assert overlay_names([{"id": 1, "file_name": ".."}]) == {1: "image.png"}
