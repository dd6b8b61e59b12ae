"""What a picture says of itself is input like any other."""

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from ldm_jax.cli import again
from ldm_jax.cli.sample import _parser
from ldm_jax.errors import InputError

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
VALUES = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.text(max_size=3), SCALARS, max_size=2)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from([*again.READ, "other"]), VALUES, max_size=6))
def test_any_settings_are_read_or_refused(told):
    parser = _parser()
    try:
        parser.set_defaults(**again._options(told, Path("x.png")))
        options = parser.parse_args([])
    except InputError:
        return
    assert options.seed >= 0 and options.first >= 0 and (options.num is None or options.num >= 1)
    assert options.labels is None or all(isinstance(label, str) for label in options.labels)


def test_everything_that_is_kept_is_read():
    kept = {
        "model": "runs/a",
        "labels": [3],
        "negative": "blur",
        "seed": 2**40,
        "num": 2,
        "guidance": 2,
        "dtype": "bfloat16",
    }
    options = again._options(kept, Path("x.png"))
    assert options["labels"] == ["3"] and options["model"] == Path("runs/a") and options["guidance"] == 2.0
    assert set(options) == set(kept)
