"""A model behind a page: previews, pictures with their settings, requests that are refused."""

import jax
import numpy as np
import pytest
from PIL import Image

import ldm_jax
from ldm_jax import images, seeds
from ldm_jax.cli import main
from ldm_jax.errors import InputError
from ldm_jax.web.drawing import Asked, Drawn, Progress, Studio, told
from ldm_jax.web.explaining import COLUMNS, explain
from ldm_jax.web.limits import Limits
from ldm_jax.web.preview import fit_preview

ASKED = Asked(num=2, steps=4, guidance=2.0, seed=3)


@pytest.fixture(scope="module")
def model(trained):
    return ldm_jax.load(trained)


@pytest.fixture(scope="module")
def studio(model, trained):
    return Studio(model, str(trained), "ldm_jax of the tests", Limits(images=4, steps=10))


@pytest.fixture(scope="module")
def news(studio):
    return list(studio.draw(ASKED))


def test_it_shows_what_becomes_of_the_noise_and_draws_what_the_model_draws(news, model):
    *on_the_way, drawn = news
    assert isinstance(drawn, Drawn) and all(isinstance(one, Progress) for one in on_the_way)
    h, w, _ = model.latent_shape
    assert {one.pictures.shape for one in on_the_way} == {(2, h, w, 1)}
    shares = [one.share for one in on_the_way]
    assert shares == sorted(shares) and shares[0] >= 0.0 and shares[-1] < 1.0
    wanted = model.sample(seeds.key(3), num=2, steps=4, guidance=2.0)
    np.testing.assert_array_equal(drawn.pictures, wanted)


def test_a_picture_is_drawn_again_from_its_settings(news, tmp_path):
    drawn = news[-1]
    images.write_png(tmp_path / "x.png", drawn.pictures[1], settings=drawn.settings[1])
    assert main(["sample", "--again", str(tmp_path / "x.png"), "--out", str(tmp_path / "again.png")]) == 0
    with Image.open(tmp_path / "again.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), drawn.pictures[1][..., 0])


def test_previews_are_the_linear_map_that_fits_the_decoder_best():
    """Of a decoder that is itself linear it is that decoder; of noise on top it knows the size."""
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(4, 3)) * 0.1, rng.normal(size=3) * 0.1

    class Linear:
        latent_shape = (4, 4, 4)

        def decode(self, z):
            pixels = np.asarray(z) @ weight + bias
            return pixels.repeat(2, axis=1).repeat(2, axis=2) + 0.2 * rng.normal(size=(len(z), 8, 8, 3))

    found = fit_preview.__wrapped__(Linear(), jax.random.key(0))
    np.testing.assert_allclose(found.weight, weight, atol=0.02)
    np.testing.assert_allclose(found.bias, bias, atol=0.02)
    assert found.error == pytest.approx(0.1, rel=0.1)  # the mean of four pixels' noise
    z = rng.normal(size=(2, 4, 4, 4)).astype(np.float32)
    wanted = np.clip((z @ weight + bias + 1.0) * 127.5, 0, 255)
    assert np.abs(found(z) - wanted).max() < 8


def picture(side=40):
    ramp = np.linspace(0, 255, side).astype(np.uint8)
    return Image.fromarray(np.broadcast_to(ramp, (side, side)))


def test_uploads_are_changed_and_painted_in(studio, model):
    h, w, _ = model.shape
    drawn = list(studio.edit(ASKED._replace(num=1), picture(), 0.5))[-1]
    assert drawn.pictures.shape == (1, h, w, 1)
    assert drawn.settings[0]["strength"] == 0.5 and drawn.settings[0]["image"] == "an upload"

    layer = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    layer.paste((255, 0, 0, 255), (20, 0, 40, 40))
    painted = list(studio.inpaint(ASKED._replace(num=1), picture(), [layer], True))[-1].pictures[0]
    own = studio.limits.upload("image", picture(), h, w, 1)
    np.testing.assert_array_equal(painted[:, : w // 2], own[:, : w // 2])
    assert (painted[:, w // 2 :] != own[:, w // 2 :]).any()


def test_interpolation_begins_at_a_seeds_picture_and_ends_at_the_others(studio, model):
    asked = ASKED._replace(num=1, label="0")
    ends = [list(studio.draw(asked._replace(seed=seed)))[-1].pictures for seed in (3, 8)]
    for share, end in zip((0.0, 1.0), ends, strict=True):
        between = list(studio.interpolate(asked, 8, share))[-1].pictures
        # slerp's own rounding may move a grey level.
        assert np.abs(between.astype(int) - end).max() <= 1
    middle = list(studio.interpolate(asked, 8, 0.5))[-1].pictures
    assert all((middle != end).any() for end in ends)


def test_what_no_option_of_sample_gives_is_not_drawn_wrongly_again(studio, tmp_path, capsys):
    asked = ASKED._replace(num=1)
    for name, news in (("image", studio.edit(asked, picture(), 0.5)), ("latents", studio.interpolate(asked, 8, 0.5))):
        drawn = list(news)[-1]
        images.write_png(tmp_path / f"{name}.png", drawn.pictures[0], settings=drawn.settings[0])
        assert main(["sample", "--again", str(tmp_path / f"{name}.png"), "--out", str(tmp_path / "no.png")]) == 2
        assert f"tells a {name} that can't be used" in capsys.readouterr().err


def test_the_noise_that_sampling_begins_with(model):
    noise = model.noise(seeds.key(5), 3, first=2)
    wanted = model.sample(seeds.key(5), num=3, first=2, steps=4, labels=[1, 2, 3])
    found = model.sample(seeds.key(5), num=3, first=2, steps=4, labels=[1, 2, 3], latents=noise)
    np.testing.assert_array_equal(found, wanted)


def test_every_step_is_explained(studio):
    found = explain(studio, ASKED)
    h, w, _ = studio.model.shape
    assert found.forward.shape == (h, w * COLUMNS, 1) and found.reverse.shape == (2 * h, w * COLUMNS, 1)
    down = [row.t for row in found.reverse_times]
    assert down == sorted(down, reverse=True) and down[0] == 1.0
    for row in found.forward_times[1:-1]:  # the quickstart's schedule: alpha = 1 - t, sigma = t
        assert (row.alpha, row.sigma) == (pytest.approx(1 - row.t), pytest.approx(row.t))
        assert row.logsnr == pytest.approx(2 * np.log((1 - row.t) / row.t), abs=1e-4)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (ASKED._replace(num=5), "num: 5 must be from 1 to 4"),
        (ASKED._replace(num=float("nan")), "num"),
        (ASKED._replace(steps=11), "steps: 11 must be from 1 to 10"),
        (ASKED._replace(guidance=1e9), "guidance"),
        (ASKED._replace(sampler="none of them"), "sampler: 'none of them' must be one of"),
        (ASKED._replace(label="unicorn"), "unicorn"),
        (ASKED._replace(seed=-1), "seed: -1 must be from 0"),
        (ASKED._replace(seed=None), "seed"),
    ],
)
def test_what_is_beyond_the_limits_is_refused_before_anything_is_drawn(studio, asked, said):
    with pytest.raises(InputError) as error:
        studio.draw(asked)
    assert said in told(error.value)


def test_a_bug_is_not_told_to_visitors():
    assert "secret" not in told(RuntimeError("secret"))


def test_models_that_a_page_cannot_show_are_refused(model, tmp_path, capsys):
    import dataclasses

    with pytest.raises(InputError, match="autoencoder alone"):
        Studio(dataclasses.replace(model, denoiser=None), "x", "y")
    assert main(["demo", str(tmp_path / "absent")]) == 2
    assert main(["demo", str(tmp_path), "--auth", "name"]) == 2
    assert "auth: it must have the form USER:PASSWORD" in capsys.readouterr().err
