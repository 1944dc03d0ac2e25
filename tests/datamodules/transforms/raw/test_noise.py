"""Noise of a sensor against its theory: a million pixels a level, in digital numbers."""

import json
import math
from pathlib import Path

import pytest
import torch
from scipy import special

from datamodules.transforms.raw.cameras import CAMERAS
from datamodules.transforms.raw.noise import SATURATION, Noise, add_noise, draw_noise

TABLE = Path(__file__).resolve().parents[5] / "shared/specs/splits/dark_camera_noise.json"
KEY = torch.tensor([7])


def noise(K=0.0, shape=0.1, scale=0.0, row=0.0, ratio=1.0):
    return Noise(*(torch.tensor([value]) for value in (K, shape, scale, row, ratio)))


def recorded(level, parameters, size=(500, 500), **options):
    """A constant level in DN of the dark exposure as it is recorded, (4, *size) in double."""
    ratio = parameters.ratio.item()
    raw = torch.full((1, 4, *size), level * ratio / SATURATION)
    return add_noise(raw, parameters, KEY, **options)[0].double() * SATURATION / ratio


@pytest.mark.parametrize("level", [20.0, 150.0, 1000.0])
@pytest.mark.parametrize(("gain", "ratio"), [(0.3, 10.0), (2.0, 10.0), (1.0, 1.0)])
def test_shot_noise_has_the_variance_of_the_gain(level, gain, ratio):
    found = recorded(level, noise(K=gain, ratio=ratio))
    assert found.mean().item() == pytest.approx(level, rel=2e-3)
    assert (found.var().item() - 1 / 12) / level == pytest.approx(gain, rel=0.02)


@pytest.mark.parametrize("shape", [0.2, 0.0929, 0.0143, 0.0, -0.1, -17 / 70])
def test_read_noise_has_the_deviation_of_the_tukey_lambda_distribution(shape):
    if shape:  # the formula of the constants' source
        part = special.gamma(1 + shape) ** 2 / special.gamma(2 + 2 * shape)
        wanted = math.sqrt(2 / shape**2 * (1 / (1 + 2 * shape) - part))
    else:
        wanted = math.pi / math.sqrt(3)
    found = recorded(7000.0, noise(shape=shape, scale=5.0))
    assert found.mean().item() == pytest.approx(7000, abs=0.05)
    assert math.sqrt(found.var().item() - 1 / 12) == pytest.approx(5 * wanted, rel=0.02)


def test_noise_of_rows_is_one_number_for_each_row_of_a_plane():
    found = recorded(7000.0, noise(row=3.0), size=(1000, 250))
    rows = found.mean(2)
    assert rows.std().item() == pytest.approx(3, rel=0.05)
    assert (found - rows[..., None]).var().item() == pytest.approx(1 / 12, rel=0.02)
    assert abs(torch.corrcoef(rows)[0, 1:]).max() < 0.12  # planes have their own
    assert abs(torch.corrcoef(torch.stack([rows[0, 1:], rows[0, :-1]]))[0, 1]) < 0.12


def test_without_any_term_only_rounding_is_left():
    found = recorded(500.0, noise(ratio=10.0)) - 500
    assert found.abs().max() < 0.51
    assert found.var().item() == pytest.approx(1 / 12, rel=0.02)


@pytest.mark.parametrize("bits", [8, 11, 14])
def test_bits_round_to_their_step(bits):
    step = 2 ** (14 - bits)
    found = recorded(1000.0, noise(K=2.0, scale=4.0, ratio=10.0), (50, 50), bits=bits)
    torch.testing.assert_close(found, (found / step).round() * step, atol=1e-2, rtol=0)
    assert 2 < len((found / step).round().unique()) < 1300 / step
    exact = recorded(1000.0, noise(ratio=10.0), (5, 5), bits=bits)
    assert exact.allclose(torch.full_like(exact, round(1000 / step) * step), atol=1e-2)


def test_a_key_gives_the_same_noise_alone_and_anywhere_in_a_batch():
    keys = torch.tensor([5, -(2**62), 11])
    raw = torch.rand(3, 4, 20, 30) * 0.2
    together = add_noise(raw, draw_noise(keys), keys)
    for place, key in enumerate(keys):
        alone = draw_noise(key[None])
        assert torch.equal(add_noise(raw[place, None], alone, key[None])[0], together[place])
        less = add_noise(raw[place, None, :, :7, :13], alone, key[None])[0]
        difference = (less - together[place, :, :7, :13]).abs()
        assert (difference > 1e-5).sum() <= 1  # rounding may move a count of electrons by one
    same = add_noise(raw[:1].expand(3, -1, -1, -1), draw_noise(keys[:1].expand(3)), keys)
    assert not torch.equal(same[0], same[1])


def test_no_generator_is_used():
    before = torch.get_rng_state()
    add_noise(torch.rand(1, 4, 4, 4, generator=torch.Generator()), draw_noise(KEY), KEY)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", CAMERAS)
def test_drawn_parameters_follow_the_calibration(name):
    camera, keys = CAMERAS[name], torch.arange(20000)
    found = draw_noise(keys, name, (20.0, 60.0))
    low, high = (math.log(gain) for gain in camera.gains)
    logs = found.K.log()
    assert logs.min() >= low - 1e-5
    assert logs.max() <= high + 1e-5
    assert logs.mean().item() == pytest.approx((low + high) / 2, abs=0.03)
    for line, value in ((camera.scale, found.scale), (camera.row, found.row)):
        rest = value.log() - line.slope * logs - line.bias
        assert rest.mean().item() == pytest.approx(0, abs=0.01)
        assert rest.std().item() == pytest.approx(line.sigma, rel=0.02)
        assert abs(torch.corrcoef(torch.stack([rest, logs]))[0, 1]) < 0.03
    shapes = (found.shape * 70).round().int()
    for shape in set(camera.seventieths):
        share = camera.seventieths.count(shape) / len(camera.seventieths)
        assert (shapes == shape).float().mean().item() == pytest.approx(share, abs=0.012)
    assert found.ratio.mean().item() == pytest.approx(40, abs=0.4)
    assert 20 <= found.ratio.min() <= found.ratio.max() <= 60


def test_the_table_is_that_of_its_source():
    if not TABLE.is_file():
        pytest.skip(f"{TABLE} is absent")
    names = {"canon_5d4": "CanonEOS5D4", "canon_700d": "CanonEOS700D", "canon_70d": "CanonEOS70D"}
    names |= {"nikon_d850": "NikonD850", "sony_a7s2": "SonyA7S2"}
    source = json.loads(TABLE.read_text())["cameras"]
    assert set(names) == set(CAMERAS)
    for name, camera in CAMERAS.items():
        given = source[names[name]]
        assert camera.gains == (given["Kmin"], given["Kmax"])
        profile = given["Profile-1"]
        assert camera.scale._asdict() == profile["G_scale"]
        assert camera.row._asdict() == profile["R_scale"]
        assert [n / 70 for n in camera.seventieths] == pytest.approx(given["G_shape"], abs=1e-12)


def test_an_unknown_camera_and_precision():
    with pytest.raises(ValueError, match=r"low_light.camera is one of canon_5d4, .*'phone'"):
        draw_noise(KEY, "phone")
    with pytest.raises(ValueError, match=r"low_light.bits .* from 8 to 14.* got 7"):
        add_noise(torch.zeros(1, 4, 2, 2), noise(), KEY, bits=7)
