import numpy as np

from callbacks.mil.bag_outputs import BagAttention
from callbacks.results.prediction_files import write_attention


def bag(name, weights, witness=None, coords=None):
    weights = np.array(weights, dtype=np.float32).reshape(len(weights), -1)
    return BagAttention(0, name, weights, witness, coords)


def test_attention_with_all_columns(tmp_path):
    bags = [
        bag("a", [0.25, 0.75], np.array([0, 1]), np.array([[512, 0], [1024, 256]])),
        bag("b", [1.0], np.array([-1]), None),
    ]
    write_attention(tmp_path / "attention.csv", bags)
    assert (tmp_path / "attention.csv").read_text() == (
        "bag_id,instance,attention,witness,x,y\na,0,0.25,0,512,0\na,1,0.75,1,1024,256\nb,0,1.0,,,\n"
    )


def test_attention_alone_and_with_branches(tmp_path):
    write_attention(tmp_path / "attention.csv", [bag("a", [0.5, 0.5])])
    text = (tmp_path / "attention.csv").read_text()
    assert text == "bag_id,instance,attention\na,0,0.5\na,1,0.5\n"
    write_attention(tmp_path / "attention.csv", [bag("a", [[1.0, 0.25], [0.0, 0.75]])])
    text = (tmp_path / "attention.csv").read_text()
    assert text == "bag_id,instance,attention_0,attention_1\na,0,1.0,0.25\na,1,0.0,0.75\n"
