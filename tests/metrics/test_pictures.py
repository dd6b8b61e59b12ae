"""Reports, panels and plots: what they say and what is in the picture."""

import json

import numpy as np
import pytest

from ldm_jax.metrics import Protocol, Report, panel, to_uint8


def report(**metrics):
    protocol = Protocol(
        subject={"kind": "model", "path": "runs/a"},
        num_samples=2000,
        labels="balanced",
        reference={"spec": "bundled:fashion_mnist"},
        rounding="adm",
        sampler="euler",
        steps=25,
        guidance=3.0,
        seed=0,
        batch_size=64,
        reconstruction=None,
        features={},
        software={},
    )
    return Report(protocol, metrics, notes=("small",))


def test_a_report_is_json_without_numbers_that_json_lacks():
    text = report(**{"FD-EffNet": 12.5, "PSNR": np.inf}).to_json()
    assert "Infinity" not in text
    read = json.loads(text)
    assert read["metrics"] == {"FD-EffNet": 12.5, "PSNR": None}
    assert read["protocol"]["guidance"] == 3.0
    assert read["notes"] == ["small"]


def test_a_report_is_a_table_of_two_columns():
    lines = report(FID=3.14159, KID=0.000123, images=123456.0).to_markdown().splitlines()
    assert lines == [
        "| model   |   runs/a |",
        "| ------- | -------: |",
        "| samples |     2000 |",
        "| FID     |    3.142 |",
        "| KID     | 0.000123 |",
        "| images  |   123456 |",
    ]


def test_the_panel_holds_every_sample_and_its_neighbours():
    samples = np.arange(5, dtype=np.uint8)[:, None, None, None] + np.full((5, 32, 32, 1), 10, np.uint8)
    near = np.stack(
        [np.full((3, 32, 32, 1), 100 + 10 * i, np.uint8) + np.arange(3).reshape(3, 1, 1, 1) for i in range(5)]
    )
    picture = panel.neighbours(samples, near.astype(np.uint8), np.ones((5, 3)))
    grey = picture[(picture == picture[..., :1]).all(axis=-1)][:, 0]
    # 32 px are enlarged to 64.
    for i in range(5):
        assert (grey == 10 + i).sum() >= 64 * 64
        for j in range(3):
            assert (grey == 100 + 10 * i + j).sum() >= 64 * 64


@pytest.mark.parametrize("channels", [1, 3])
def test_samples_alone(channels):
    samples = np.full((3, 100, 100, channels), 7, np.uint8)
    picture = panel.neighbours(samples, np.zeros((3, 0, 100, 100, channels), np.uint8), np.zeros((3, 0)))
    assert (picture == 7).all(axis=-1).sum() >= 3 * 100 * 100


def test_a_plot_goes_through_its_points():
    picture = panel.plot("guidance", [1.0, 2.0, 4.0], {"FID": [30.0, 10.0, 20.0], "KID": [0.3, 0.1, np.nan]})
    assert picture.shape == (400, 640, 3)
    first, second = (
        np.argwhere((picture[top : top + 200] == colour).all(axis=-1))
        for top, colour in zip((0, 200), panel.COLOURS[:2], strict=True)
    )
    # The curve: below the title, from the left edge to the right one, lowest number lowest on the page.
    curve = first[first[:, 0] > 24]
    assert curve[:, 1].min() <= 64 + 4 and curve[:, 1].max() >= 640 - 24 - 4
    lowest = curve[curve[:, 0].argmax()]
    assert abs(lowest[1] - (64 + (640 - 24 - 64) / 3)) <= 4
    # NaN has no point.
    assert second[second[:, 0] > 24][:, 1].max() < 640 - 24 - 100


def test_a_plot_of_one_value_and_of_negative_ones():
    assert panel.plot("steps", [5], {"KID": [-0.001]}).shape == (200, 640, 3)
    assert panel.plot("steps", [5, 10], {"KID": [0.0, 0.0]}).shape == (200, 640, 3)


def test_pictures_are_stacked_on_white():
    stacked = panel.stack([np.zeros((2, 3, 3), np.uint8), np.zeros((1, 5, 3), np.uint8)])
    assert stacked.shape == (3, 5, 3)
    assert (stacked[:2, 3:] == 255).all() and (stacked[:2, :3] == 0).all()


def test_rounding_rules():
    levels = np.arange(256, dtype=np.float32)
    exact = levels / 127.5 - 1
    for rule in ("round", "adm"):
        np.testing.assert_array_equal(to_uint8(exact, rule), levels)
    # A third of a level up: rounding keeps the level, so does cutting off; two thirds up they part.
    np.testing.assert_array_equal(to_uint8((levels + 1 / 3) / 127.5 - 1, "trunc"), levels)
    np.testing.assert_array_equal(to_uint8((levels + 2 / 3) / 127.5 - 1, "trunc"), levels)
    np.testing.assert_array_equal(to_uint8((levels + 2 / 3) / 127.5 - 1, "adm"), np.minimum(levels + 1, 255))
    np.testing.assert_array_equal(to_uint8((levels + 2 / 3) / 127.5 - 1, "round"), np.minimum(levels + 1, 255))
    for rule in ("round", "adm", "trunc"):
        np.testing.assert_array_equal(to_uint8(np.array([-1.5, 1.5]), rule), [0, 255])
