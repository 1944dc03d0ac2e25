"""Files of foreign networks that deceive or are broken, put together by hand."""

import struct
import time
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from formats.weights import foreign
from formats.weights.files import load_weights
from formats.weights.foreign import read_foreign_weights


def text(value):
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value):
    return b"\x8a\x08" + struct.pack("<q", value)  # LONG1


def numbers(*values):
    return b"(" + b"".join(map(number, values)) + b"t"


def glob(module, name):
    return f"c{module}\n{name}\n".encode()


def storage(key="0", kind="FloatStorage", numel=4, module="torch"):
    inside = text("storage") + glob(module, kind) + text(key) + text("cpu") + number(numel)
    return b"(" + inside + b"tQ"


def tensor(place=None, offset=0, size=(4,), stride=(1,)):
    place = storage() if place is None else place
    arguments = place + number(offset) + numbers(*size) + numbers(*stride)
    return glob("torch._utils", "_rebuild_tensor_v2") + b"(" + arguments + b"\x89}tR"


def module(parameters=b"}", modules=b"}", buffers=b"}"):
    """A layer; its dictionaries are given as code that leaves one on the stack."""
    pairs = [("_parameters", parameters), ("_buffers", buffers), ("_modules", modules)]
    state = b"}(" + b"".join(text(k) + v for k, v in pairs) + b"u"
    return glob("their.layers", "Net") + b")\x81" + state + b"b"


def entry(key, value):
    return b"}" + text(key) + value + b"s"


def file_of(content=None, model=None):
    if content is None:
        content = entry("model", module(entry("weight", tensor())) if model is None else model)
    return b"\x80\x02" + content + b"."


VALUES = np.arange(4, dtype="<f4").tobytes()


def write(path, data, values=VALUES, extra=(), compression=0):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("w/data.pkl", data)
        archive.writestr("w/version", "3\n")
        archive.writestr("w/data/0", values)
        for name, content in extra:
            archive.writestr(name, content)
    return path


def test_the_hand_made_file_is_sound(tmp_path):
    found = read_foreign_weights(write(tmp_path / "w.pt", file_of()))
    assert found.tensors["weight"].tolist() == [0, 1, 2, 3]
    assert (found.part, found.kind) == ("model", "Net")
    other = nn.Module()
    other.register_buffer("weight", torch.ones(4))
    assert load_weights(other, tmp_path / "w.pt").loaded == 1
    little = [("w/byteorder", b"little")]
    read_foreign_weights(write(tmp_path / "l.pt", file_of(), extra=little))


def calls(sentinel):
    """What the refusal says, and code that asks for a call."""
    command = f"touch {sentinel}"
    one = b"(" + text(command) + b"t"
    python = b"(" + text(f"open({str(sentinel)!r}, 'w')") + b"t"
    yield "GLOBAL os.system", glob("os", "system") + one + b"R"
    yield "GLOBAL posix.system", glob("posix", "system") + one + b"R"
    for module, name in [("subprocess", "getoutput"), ("torch", "load"), ("torch.hub", "load")]:
        yield f"call of '{module}.{name}' with 1", glob(module, name) + one + b"R"
    for name in ("eval", "exec"):
        for module in ("builtins", "__builtin__"):
            yield f"call of 'builtins.{name}' with 1", glob(module, name) + python + b"R"
    getter = b"(" + glob("os.path", "join") + text("system") + b"t"
    for module in ("builtins", "__builtin__"):
        yield "call of 'builtins.getattr' with 2", glob(module, "getattr") + getter + b"R"
    yield "call of 'builtins.getattr' with 0", glob("builtins", "getattr") + b")R"
    unnamed = b"(" + glob("ultralytics.nn", "Net") + b"Nt"
    yield "call of 'builtins.getattr' with 2", glob("builtins", "getattr") + unnamed + b"R"
    yield "call of 'ultralytics.utils.run' with 1", glob("ultralytics.utils", "run") + one + b"R"
    yield "call of 'their.layers.run' with 0", glob("their.layers", "run") + b")R"
    # the method of one of their classes is a name; calling it is refused
    named = b"(" + glob("ultralytics.nn", "Net") + text("run") + b"t"
    yield "function None", glob("builtins", "getattr") + named + b"R" + one + b"R"
    # objects of their classes cannot be called either
    made = glob("ultralytics.nn", "Net") + b")\x81"
    yield "unrecognized function", made + one + b"R"
    through_memo = glob("os.path", "join") + b"q\x07h\x07" + one + b"R"
    yield "call of 'os.path.join' with 1", through_memo
    yield "operand 105", b"(" + text(command) + b"ios\nsystem\n"  # INST
    yield "operand 111", b"(" + glob("os", "system") + text(command) + b"o"  # OBJ
    yield "operand 146", glob("subprocess", "call") + one + b"}\x92"  # NEWOBJ_EX
    yield "operand 147", text("os") + text("system") + b"\x93" + one + b"R"  # STACK_GLOBAL
    yield "operand 130", b"\x82\x01"  # EXT1
    yield "operand 48", b"N0" + glob("os", "system") + one + b"R"  # POP
    yield "operand 80", b"Pos.system\n"  # PERSID
    yield "operand 50", b"N2"  # DUP
    yield "unrecognized function os.system", text("os.system") + one + b"R"
    yield "Can only build .*list", b"]}b"


@pytest.mark.parametrize("place", ["beside", "within"])
def test_calls_are_refused_by_name_and_not_made(tmp_path, place):
    for says, code in calls(tmp_path / "sentinel"):
        refused(tmp_path, place, says, code)


def refused(tmp_path, place, says, code):
    if place == "beside":  # after everything that is needed
        sound = text("model") + module(entry("weight", tensor()))
        data = file_of(b"}(" + sound + text("x") + code + b"u")
    else:
        data = file_of(model=module(entry("weight", code)))
    path = write(tmp_path / "evil.pt", data)
    with pytest.raises(ValueError, match=rf"evil.pt: .*{says}.*Nothing in it was executed"):
        read_foreign_weights(path)
    with pytest.raises(ValueError, match="evil.pt"):
        load_weights(nn.Linear(2, 2), path)
    assert not (tmp_path / "sentinel").exists()


def test_building_objects_executes_nothing(tmp_path):
    """An object of a class of any name keeps its state, whatever that says."""
    sentinel = tmp_path / "sentinel"
    code = f"open({str(sentinel)!r}, 'w')"
    state = b"}(" + text("__setstate__") + glob("builtins", "eval")
    state += b"".join(text(k) + b"}" for k in ("_buffers", "_modules"))
    state += text("_parameters") + entry("weight", tensor()) + b"u"
    made = glob("subprocess", "Popen") + b"(" + text(code) + b"t\x81" + state + b"b"
    found = read_foreign_weights(write(tmp_path / "w.pt", file_of(made)))
    assert (found.part, found.kind, list(found.tensors)) == ("", "Popen", ["weight"])
    assert not sentinel.exists()


def test_attributes_of_the_file_do_not_hide_methods(tmp_path):
    """An ordered dictionary can be given attributes; its contents are read past them."""
    ordered = glob("collections", "OrderedDict") + b")R"
    hidden = b"}(" + b"".join(text(k) + b"N" for k in ("get", "items", "keys")) + b"ub"
    parameters = ordered + text("weight") + tensor() + b"s" + hidden
    model = ordered + text("model") + module(parameters) + b"s" + hidden
    found = read_foreign_weights(write(tmp_path / "w.pt", file_of(model)))
    assert found.tensors["weight"].tolist() == [0, 1, 2, 3]
    kind = glob("torch._utils", "_rebuild_tensor_v2") + glob("torch", "Tensor")
    arguments = b"(" + storage() + number(0) + numbers(4) + numbers(1) + b"\x89}t"
    typed = b"(" + kind + arguments + entry("detach", b"N") + b"tR"
    code = glob("torch._tensor", "_rebuild_from_type_v2") + typed
    with pytest.raises(ValueError, match=r"'weight' is not a tensor"):
        read_foreign_weights(write(tmp_path / "w.pt", file_of(module(entry("weight", code)))))


@pytest.mark.parametrize(
    ("view", "says"),
    [
        ({"size": (5,)}, "resize storage that is not resizable"),
        ({"offset": 1}, "resize storage that is not resizable"),
        ({"offset": -1, "size": (2,)}, "offset -1"),
        ({"size": (2, 2), "stride": (3, 1)}, "resize storage"),
        ({"size": (2,), "stride": (-1,), "offset": 3}, r"strides=\[-1\]"),
        ({"size": (2, -2), "stride": (1, 1)}, "overflow"),
        ({"size": (1 << 20, 1 << 20), "stride": (0, 0)}, "do not agree"),
        ({"size": (1 << 40, 1 << 40), "stride": (0, 0)}, "overflow"),
        ({"size": (4, 4), "stride": (0, 1)}, r"strides \(0, 1\) in a storage of 16 .* not agree"),
        ({"size": (0, 1 << 40), "stride": (1, 1)}, "do not agree"),
        ({"size": (2, 2)}, r"unequal size length \(2\) and stride length \(1\)"),
        ({"size": (1,) * 9, "stride": (1,) * 9}, "do not agree"),
        ({"place": storage(numel=1 << 40)}, r"record size \(16 bytes\) does not match"),
        ({"place": storage(numel=3), "size": (3,)}, r"record size \(16 bytes\) .*\(12 bytes"),
        ({"place": storage(numel=-1), "size": ()}, "broken archive"),
        ({"place": storage(key="../../etc/passwd")}, "data/../../etc/passwd"),
        ({"place": storage(key="0/../0")}, "failed locating file data/0/../0"),
        ({"place": storage(key="٣")}, "failed locating file"),
        ({"place": storage(key="7")}, "failed locating file data/7"),
        ({"place": storage(kind="DoubleStorage")}, r"record size \(16 bytes\) .*\(32 bytes"),
        ({"place": storage(kind="QInt8Storage", numel=16)}, "torch.qint8.*; supported are"),
        ({"place": storage(kind="ByteStorage", numel=16)}, "torch.uint8.*; supported are"),
        ({"place": storage(module="os.path", kind="FloatStorage")}, "broken archive"),
        ({"place": storage(module="os", kind="FloatStorage")}, "GLOBAL os.FloatStorage"),
        ({"place": b"N"}, "broken archive"),
        ({"place": b"NQ"}, "must be tuple or int"),
        ({"place": b"(" + text("module") + b"tQ"}, "Only persistent_load of storage"),
        ({"place": b"(" + text("storage") + storage() * 4 + b"tQ"}, "broken archive"),
    ],
)
def test_storages_and_views_that_do_not_agree(tmp_path, view, says):
    data = file_of(model=module(entry("weight", tensor(**view))))
    with pytest.raises(ValueError, match=f"w.pt: .*{says}"):
        read_foreign_weights(write(tmp_path / "w.pt", data))


def test_a_view_to_the_last_element_is_sound(tmp_path):
    view = tensor(offset=1, size=(3, 1), stride=(1, 7))
    found = read_foreign_weights(write(tmp_path / "w.pt", file_of(module(entry("w", view)))))
    assert found.tensors["w"].tolist() == [[1], [2], [3]]


# A layer that is put into the memo before it gets its state, which holds it.
ITSELF = module(modules=entry("a", b"h\x05")).replace(b")\x81", b")\x81q\x05")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (entry("model", b"N"), "no network, neither under 'ema' nor under 'model'"),
        (b"]", "no network"),
        (entry("model", glob("their", "Net") + b")\x81"), "'their.Net' is not a PyTorch module"),
        (entry("model", module(modules=b"]")), "it has no _modules"),
        (entry("model", module(entry("w", b"K\x01"))), "'w' is not a tensor"),
        (entry("model", module(modules=entry("a", b"K\x01"))), "'a' is not a layer"),
        (entry("model", module()), "its network has no weights"),
        (entry("model", ITSELF), "contain themselves or are too many"),
        (entry("model", module() + b"}b"), "state of a 'their.layers.Net' twice"),
        (b"}" + b")" + b"Ns", "no network"),
        (b"}(" + text("a") + b"u", "broken archive"),
        (b"N(", "broken archive"),
        (b"NN", "no network"),
        (b"", "broken archive"),
        (b"h\x09", "broken archive"),
        (b"u", "broken archive"),
        (b"N(a", "broken archive"),
        (b"]N(a", "broken archive"),
        (b"q\x01", "broken archive"),
        (b"}Na", "Can only append to lists"),
        (b"]NNs", "Can only SETITEM for dict"),
        (b"X\xff\xff\x00\x00abc", "broken archive"),
    ],
)
def test_what_is_no_network(tmp_path, content, says):
    with pytest.raises(ValueError, match=f"w.pt: (refused: .*{says}.*Nothing in it was|{says})"):
        read_foreign_weights(write(tmp_path / "w.pt", file_of(content)))


def doubled(levels):
    """Code of a layer that holds the layer before twice, and so on."""
    code = b"}(" + text("l0") + module(entry("w", tensor())) + b"q\x00"
    for level in range(1, levels):
        inside = b"}(" + b"".join(text(n) + b"h" + bytes([level - 1]) for n in "ab") + b"u"
        code += text(f"l{level}") + module(modules=inside) + b"q" + bytes([level])
    return code + text("model") + b"h" + bytes([levels - 1]) + b"u"


def test_layers_that_double_end_soon(tmp_path):
    assert len(read_foreign_weights(write(tmp_path / "a.pt", file_of(doubled(4)))).tensors) == 8
    began = time.perf_counter()
    with pytest.raises(ValueError, match="too many"):
        read_foreign_weights(write(tmp_path / "b.pt", file_of(doubled(39))))
    assert time.perf_counter() - began < 5


def test_tensors_cannot_be_larger_than_their_file(tmp_path):
    many = b"}(" + b"".join(text(f"w{i}") + b"h\x02" for i in range(900)) + b"u"
    place = storage(numel=4000)
    stored = tensor(place, size=(4000,)) + b"q\x02"
    data = file_of(b"}(" + text("t") + stored + text("model") + module(many) + b"u")
    path = write(tmp_path / "w.pt", data, values=bytes(16000))
    with pytest.raises(ValueError, match=r"tensors take 14400000 bytes, the file has"):
        read_foreign_weights(path)


def test_one_entry_is_read_once(tmp_path):
    """Storages of one key share their bytes, whatever kind the pickle gives them."""
    kinds = ("FloatStorage", "IntStorage")
    views = [tensor(storage(kind=kind, numel=4000), size=(1,)) for kind in kinds]
    both = b"}(" + b"".join(text(f"w{i}") + view for i, view in enumerate(views)) + b"u"
    path = write(tmp_path / "w.pt", file_of(module(both)), values=bytes(16000))
    found = read_foreign_weights(path)
    assert {v.dtype for v in found.tensors.values()} == {torch.float32}


@pytest.mark.parametrize("place", ["offset", "size", "stride"])
def test_tuples_that_double_are_not_written_out(tmp_path, place):
    nested = b")" + b"q\x01h\x01\x86" * 60
    parts = {"offset": number(0), "size": numbers(1), "stride": numbers(1), place: nested}
    content = glob("torch._utils", "_rebuild_tensor_v2") + b"(" + storage()
    content += b"".join(parts.values()) + b"\x89}tR"
    with pytest.raises(ValueError, match=r"w.pt: broken archive.*\(.{1,200}\)$"):
        read_foreign_weights(write(tmp_path / "w.pt", file_of(module(entry("w", content)))))


def test_a_pickle_names_few_classes(tmp_path):
    names = b"".join(glob("their", f"Net{i}") for i in range(201))
    with pytest.raises(ValueError, match=r"w.pt: refused: .* 201 classes, more than 200"):
        read_foreign_weights(write(tmp_path / "w.pt", file_of(names)))


@pytest.mark.parametrize("key", ["long" * 200, "\x1b[2Jw"])
def test_names_are_short_and_printable(tmp_path, key):
    weights = module(entry("w", tensor()))
    for network in (module(entry(key, tensor())), module(modules=entry(key, weights))):
        with pytest.raises(ValueError, match=r"a part of its network is named '.*characters\)"):
            read_foreign_weights(write(tmp_path / "w.pt", file_of(model=network)))
    named = glob("their", "\x1b[2J") + b")\x81"
    with pytest.raises(ValueError, match=r"names a class 'their\..x1b\[2J'"):
        read_foreign_weights(write(tmp_path / "w.pt", file_of(named)))


# ---- archives


def test_archives_that_are_none(tmp_path, monkeypatch):
    sound = file_of()
    (tmp_path / "none.pt").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"none.pt: broken archive"):
        read_foreign_weights(tmp_path / "none.pt")
    with zipfile.ZipFile(tmp_path / "other.pt", "w") as archive:
        archive.writestr("readme", "text")
    with pytest.raises(ValueError, match=r"other.pt: .* not one of torch.save .* found 0"):
        read_foreign_weights(tmp_path / "other.pt")
    two = write(tmp_path / "two.pt", sound, extra=[("v/data.pkl", sound)])
    with pytest.raises(ValueError, match=r"found 2"):
        read_foreign_weights(two)
    big = write(tmp_path / "big.pt", sound, extra=[("w/byteorder", b"big")])
    with pytest.raises(ValueError, match=r"big.pt: .*not little-endian"):
        read_foreign_weights(big)
    packed = write(tmp_path / "packed.pt", sound, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match=r"packed.pt: refused: .*compressed entries"):
        read_foreign_weights(packed)
    wide = file_of(model=module(entry("w", tensor(size=(0, *[1 << 31] * 5), stride=(1,) * 6))))
    with pytest.raises(ValueError, match=r"wide.pt: refused.*do not agree|wide.pt: broken archive"):
        read_foreign_weights(write(tmp_path / "wide.pt", wide))
    monkeypatch.setattr(foreign, "_MAX_PICKLE", 64)
    with pytest.raises(ValueError, match=r"larger than 64 bytes"):
        read_foreign_weights(write(tmp_path / "w.pt", sound))


def test_an_entry_that_reaches_over_the_rest_of_the_file_is_refused(tmp_path):
    path = write(tmp_path / "w.pt", file_of(), extra=[("w/more", bytes(4000))])
    data = bytearray(path.read_bytes())
    header = data.rindex(b"w/data/0") - 46  # of the central directory
    data[header + 20 : header + 24] = struct.pack("<I", 4000)  # bytes in the file
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"w.pt: refused: .*compressed entries"):
        read_foreign_weights(path)


def test_any_damaged_byte_of_the_pickle_is_a_value_error(tmp_path):
    data = file_of()
    generator = np.random.default_rng(0)
    for _ in range(1000):
        broken = bytearray(data)
        for place in generator.integers(0, len(data), 2):
            broken[place] = generator.integers(0, 256)
        path = write(tmp_path / "w.pt", bytes(broken))
        try:
            read_foreign_weights(path)
        except ValueError:
            continue
