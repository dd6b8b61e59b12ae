"""Token ids as transformers gives them, for tiny vocabularies of CLIP's and BERT's kind.

python tests/reference/token_ids.py      (with transformers) writes tests/reference/token_ids.npz
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np

TEXTS = [
    "",
    "a photo of a cat",
    "A Photo of a CAT, sitting on 12 mats!",
    "it's the cat's photo; they'll see...",
    "tabs\tand   spaces \n and\nlines",
    "naïve café — ünïcode 猫 😺",
    "cats " * 30,
    "<|endoftext|> inside",
    "[MASK] of [SEP]",
]
WORDS = ["photo", "of", "cat", "cats", "the", "sitting", "on", "mat", "see", "and", "spaces", "lines"]


def clip_files() -> tuple[dict[str, int], list[str]]:
    """A byte-level vocabulary and merges that build WORDS from the left."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    vocabulary = {letter: i for i, letter in enumerate([*letters, *(letter + "</w>" for letter in letters)])}
    merges = []
    for word in WORDS:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            merge = f"{parts[0]} {parts[1]}"
            if merge not in merges:
                merges.append(merge)
            vocabulary.setdefault(parts[0] + parts[1], len(vocabulary))
            parts[:2] = [parts[0] + parts[1]]
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[special] = len(vocabulary)
    return vocabulary, merges


def bert_words() -> list[str]:
    """Word pieces."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", *WORDS, "it", "'", "s", "!", ",", ".", ";", "##s"]
    return [*pieces, "na", "##ive", "cafe", "12", "1", "##2", "unicode", "猫", "they", "ll", "c", "##at"]


def main() -> None:
    from transformers import BertTokenizer, CLIPTokenizer

    vocabulary, merges = clip_files()
    result = {"clip": {"vocab": vocabulary, "merges": merges}, "bert": {"vocab": bert_words()}, "texts": TEXTS}
    with tempfile.TemporaryDirectory() as folder:
        room = Path(folder)
        (room / "vocab.json").write_text(json.dumps(vocabulary))
        (room / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
        (room / "vocab.txt").write_text("\n".join(bert_words()) + "\n")
        clip = CLIPTokenizer.from_pretrained(folder, model_max_length=24)
        (room / "vocab.json").unlink()
        bert = BertTokenizer(vocab=str(room / "vocab.txt"), model_max_length=24)
        for name, tokenizer in (("clip", clip), ("bert", bert)):
            done = tokenizer(TEXTS, padding="max_length", truncation=True, max_length=24)
            result[name] |= {"ids": done["input_ids"], "mask": done["attention_mask"], "pad": tokenizer.pad_token}
            tokenizer.save_pretrained(room / name)
            result[name]["saved"] = (room / name / "tokenizer.json").read_text()
    np.savez_compressed(Path(__file__).with_suffix(".npz"), json=np.array(json.dumps(result)))
    print({name: np.array(result[name]["ids"])[:4].tolist() for name in ("clip", "bert")}, result["clip"]["pad"])


if __name__ == "__main__":
    main()
