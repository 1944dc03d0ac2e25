"""Files of foreign networks that deceive or are broken, put together by hand."""

import struct
import time
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from formats.weights import foreign as foreign_checkpoint
from formats.weights.files import load_weights
from formats.weights.foreign import read_foreign_weights
from formats.weights.foreign_pickle import Record, TensorPlace, read_pickle


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
    command = f"touch {sentinel}"
    one = b"(" + text(command) + b"t"
    python = b"(" + text(f"open({str(sentinel)!r}, 'w')") + b"t"
    yield "os.system", glob("os", "system") + one + b"R"
    yield "posix.system", glob("posix", "system") + one + b"R"
    yield "subprocess.getoutput", glob("subprocess", "getoutput") + one + b"R"
    yield "builtins.eval", glob("builtins", "eval") + python + b"R"
    yield "__builtin__.eval", glob("__builtin__", "eval") + python + b"R"
    yield "builtins.exec", glob("builtins", "exec") + python + b"R"
    yield "torch.load", glob("torch", "load") + one + b"R"
    yield "torch.hub.load", glob("torch.hub", "load") + one + b"R"
    yield "collections.OrderedDict", glob("collections", "OrderedDict") + b"(]tR"
    getter = b"(" + glob("os", "path") + text("system") + b"t"
    yield "builtins.getattr", glob("builtins", "getattr") + getter + b"R"
    yield "__builtin__.getattr", glob("__builtin__", "getattr") + getter + b"R"
    yield "builtins.getattr", glob("builtins", "getattr") + b")R"
    unnamed = b"(" + glob("ultralytics.nn", "Net") + b"Nt"
    yield "builtins.getattr", glob("builtins", "getattr") + unnamed + b"R"
    yield "ultralytics.utils.run", glob("ultralytics.utils", "run") + one + b"R"
    # the method of one of their classes is a name; calling it is refused
    named = b"(" + glob("ultralytics.nn", "Net") + text("run") + b"t"
    yield "Record stands", glob("builtins", "getattr") + named + b"R" + one + b"R"
    yield "os.system", glob("os", "system") + b"q\x07h\x07" + one + b"R"  # through the memo
    yield "instruction INST", b"(" + text(command) + b"ios\nsystem\n"
    yield "instruction OBJ", b"(" + glob("os", "system") + text(command) + b"o"
    yield "instruction NEWOBJ_EX", glob("os", "system") + one + b"}\x92"
    yield "instruction STACK_GLOBAL", text("os") + text("system") + b"\x93" + one + b"R"
    yield "instruction EXT1", b"\x82\x01"
    yield "instruction POP", b"N0" + glob("os", "system") + one + b"R"
    yield "instruction PERSID", b"Pos.system\n"
    yield "instruction DUP", b"N2"
    yield "str stands where a Global", text("os.system") + one + b"R"
    yield "list stands where a tuple", glob("torch", "Size") + b"]R"
    yield "list stands where a Record", b"]}b"


@pytest.mark.parametrize("place", ["beside", "within"])
def test_calls_are_refused_by_name_and_not_made(tmp_path, place):
    for name, code in calls(tmp_path / "sentinel"):
        refused(tmp_path, place, name, code)


def refused(tmp_path, place, name, code):
    if place == "beside":  # after everything that is needed
        sound = text("model") + module(entry("weight", tensor()))
        data = file_of(b"}(" + sound + text("x") + code + b"u")
    else:
        data = file_of(model=module(entry("weight", code)))
    path = write(tmp_path / "evil.pt", data)
    with pytest.raises(ValueError, match=r"evil.pt: .*" + name.replace(".", r"\.")):
        read_foreign_weights(path)
    with pytest.raises(ValueError, match="evil.pt"):
        load_weights(nn.Linear(2, 2), path)
    assert not (tmp_path / "sentinel").exists()


def test_building_objects_executes_nothing(tmp_path):
    """A class of any name becomes a record, whatever its state says."""
    sentinel = tmp_path / "sentinel"
    code = f"open({str(sentinel)!r}, 'w')"
    state = b"}" + text("__setstate__") + glob("builtins", "eval") + b"s"
    data = glob("subprocess", "Popen") + b"(" + text(code) + b"t\x81" + state + b"b"
    found = read_pickle(b"\x80\x02" + data + b".")
    assert isinstance(found, Record)
    assert (str(found.kind), found.arguments) == ("'subprocess.Popen'", (code,))
    assert not callable(found)
    assert not sentinel.exists()


@pytest.mark.parametrize(
    ("view", "says"),
    [
        ({"size": (5,)}, r"shape \(5,\), strides \(1,\) and offset 0 in a storage of 4"),
        ({"offset": 1}, r"offset 1 in a storage of 4 elements, which do not agree"),
        ({"offset": -1, "size": (2,)}, "offset -1"),
        ({"size": (2, 2), "stride": (3, 1)}, r"strides \(3, 1\)"),
        ({"size": (2,), "stride": (-1,), "offset": 3}, r"strides \(-1,\)"),
        ({"size": (2, -2), "stride": (1, 1)}, r"shape \(2, -2\)"),
        ({"size": (1 << 20, 1 << 20), "stride": (0, 0)}, "do not agree"),
        ({"size": (4, 4), "stride": (0, 1)}, "do not agree"),
        ({"size": (0, 1 << 40), "stride": (1, 1)}, "do not agree"),
        ({"size": (2, 2)}, r"strides \(1,\)"),
        ({"size": (1,) * 9, "stride": (1,) * 9}, "do not agree"),
        ({"place": storage(numel=1 << 40)}, "has 16 bytes, its pickle says"),
        ({"place": storage(numel=3), "size": (3,)}, "has 16 bytes, its pickle says 12"),
        ({"place": storage(numel=-1), "size": ()}, "storage '0' of -1 elements"),
        ({"place": storage(key="../../etc/passwd")}, r"storage '../../etc/passwd'"),
        ({"place": storage(key="0/../0")}, "names a storage"),
        ({"place": storage(key="٣")}, "names a storage"),
        ({"place": storage(key="7")}, "entry 'w/data/7' is missing"),
        ({"place": storage(kind="DoubleStorage")}, "has 16 bytes, its pickle says 32"),
        ({"place": storage(kind="QInt8Storage")}, r"'torch.QInt8Storage'; read are"),
        ({"place": storage(module="os", kind="FloatStorage")}, "'os.FloatStorage'"),
        ({"place": b"N"}, "NoneType stands where a StoragePlace"),
        ({"place": b"NQ"}, "NoneType stands where a tuple"),
        ({"place": b"(" + text("module") + b"tQ"}, "not a storage"),
        ({"place": b"(" + text("storage") + storage() * 4 + b"tQ"}, "not a storage"),
    ],
)
def test_storages_and_views_that_do_not_agree(tmp_path, view, says):
    data = file_of(model=module(entry("weight", tensor(**view))))
    with pytest.raises(ValueError, match=f"w.pt: .*{says}"):
        read_foreign_weights(write(tmp_path / "w.pt", data))


def test_a_view_to_the_last_element_is_sound():
    content = tensor(offset=1, size=(3, 1), stride=(1, 7))
    assert isinstance(read_pickle(b"\x80\x02" + content + b"."), TensorPlace)


# A layer that is put into the memo before it gets its state, which holds it.
ITSELF = module(modules=entry("a", b"h\x05")).replace(b")\x81", b")\x81q\x05")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (entry("model", b"N"), "no network, neither under 'ema' nor under 'model'"),
        (b"]", "no network"),
        (entry("model", glob("their", "Net") + b")\x81"), "'their.Net' is no PyTorch module"),
        (entry("model", module(modules=b"]")), "it has no _modules"),
        (entry("model", module(entry("w", b"K\x01"))), "'w' is not a tensor"),
        (entry("model", module(modules=entry("a", b"K\x01"))), "'a' is not a layer"),
        (entry("model", module()), "its network has no weights"),
        (entry("model", ITSELF), "contain themselves or are too many"),
        (entry("model", module() + b"}b"), "state of a 'their.layers.Net' twice"),
        (b"}" + b")" + b"Ns", "key of a dictionary that is neither text nor number"),
        (b"}(" + text("a") + b"u", "neither text nor number"),
        (b"N(", "does not end with one value"),
        (b"NN", "does not end with one value"),
        (b"", "does not end with one value"),
        (b"h\x09", "uses a value that it has not stored"),
        (b"u", "a mark is missing"),
        (b"N(a", "a value is missing"),
        (b"]N(a", "a value is missing"),
        (b"q\x01", "a value is missing"),
        (b"}Na", "dict stands where a list"),
        (b"X\xff\xff\x00\x00abc", "expected 65535 bytes"),
    ],
)
def test_what_is_no_network(tmp_path, content, says):
    with pytest.raises(ValueError, match=f"w.pt: .*{says}.*Nothing in it was|w.pt: {says}"):
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


def test_one_entry_cannot_be_read_again_and_again(tmp_path):
    kinds = ("FloatStorage", "IntStorage")
    views = [tensor(storage(kind=kind, numel=4000), size=(1,)) for kind in kinds]
    both = b"}(" + b"".join(text(f"w{i}") + view for i, view in enumerate(views)) + b"u"
    path = write(tmp_path / "w.pt", file_of(model=module(both)), values=bytes(16000))
    with pytest.raises(ValueError, match="storages take more bytes than the file has"):
        read_foreign_weights(path)


@pytest.mark.parametrize("place", ["offset", "size", "stride"])
def test_tuples_that_double_are_not_written_out(place):
    nested = b")" + b"q\x01h\x01\x86" * 60
    parts = {"offset": number(0), "size": numbers(1), "stride": numbers(1), place: nested}
    content = (
        glob("torch._utils", "_rebuild_tensor_v2") + b"(" + storage() + b"".join(parts.values())
    )
    with pytest.raises(ValueError, match=r"tuple'.* in a storage of 4 elements, which do not"):
        read_pickle(b"\x80\x02" + content + b"tR.")


def test_keys_of_one_hash_are_refused():
    step = (1 << 61) - 1
    pairs = b"".join(number(n * step) + b"N" for n in (0, 1, 2))
    with pytest.raises(ValueError, match=r"neither text nor number below 2\^32"):
        read_pickle(b"\x80\x02}(" + pairs + b"u.")


@pytest.mark.parametrize("key", ["long" * 200, "\x1b[2Jw"])
def test_names_are_short_and_printable(tmp_path, key):
    weights = module(entry("w", tensor()))
    for network in (module(entry(key, tensor())), module(modules=entry(key, weights))):
        with pytest.raises(ValueError, match=r"a part of its network is named '.*characters\)"):
            read_foreign_weights(write(tmp_path / "w.pt", file_of(model=network)))
    with pytest.raises(ValueError, match=r"names a class 'their .x1b\[2J'"):
        read_pickle(b"\x80\x02" + glob("their", "\x1b[2J") + b".")


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
    with pytest.raises(ValueError, match=r"'w/data.pkl' is compressed or larger"):
        read_foreign_weights(packed)
    wide = file_of(model=module(entry("w", tensor(size=(0, *[1 << 31] * 5), stride=(1,) * 6))))
    with pytest.raises(ValueError, match=r"wide.pt: broken archive"):  # strides overflow
        read_foreign_weights(write(tmp_path / "wide.pt", wide))
    monkeypatch.setattr(foreign_checkpoint, "_MAX_PICKLE", 64)
    with pytest.raises(ValueError, match=r"larger than 64 bytes"):
        read_foreign_weights(write(tmp_path / "w.pt", sound))


def test_an_entry_that_reaches_over_the_rest_of_the_file_is_refused(tmp_path):
    path = write(tmp_path / "w.pt", file_of(), extra=[("w/more", bytes(4000))])
    data = bytearray(path.read_bytes())
    header = data.rindex(b"w/data/0") - 46  # of the central directory
    data[header + 20 : header + 24] = struct.pack("<I", 4000)  # bytes in the file
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"'w/data/0' is compressed or larger"):
        read_foreign_weights(path)


def test_any_damaged_byte_of_the_pickle_is_a_value_error():
    data = file_of()
    generator = np.random.default_rng(0)
    for _ in range(3000):
        broken = bytearray(data)
        for place in generator.integers(0, len(data), 2):
            broken[place] = generator.integers(0, 256)
        try:
            read_pickle(bytes(broken))
        except ValueError:
            continue
