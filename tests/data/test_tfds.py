"""Reads small sets that the tests themselves write in TFDS's format; nothing here needs TensorFlow."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ldm_jax.data import open_source
from ldm_jax.errors import InputError

LEAVES: dict[str, Any] = {
    "Image": ("image_feature", {"image": {"dtype": "uint8", "shape": {"dimensions": ["-1", "-1", "-1"]}}}),
    "FloatImage": ("image_feature", {"image": {"dtype": "float32", "shape": {"dimensions": ["-1", "-1", "1"]}}}),
    "ClassLabel": ("class_label_feature", {"classLabel": {"numClasses": "2"}}),
    "Text": ("text_feature", {"text": {}}),
}


def feature(kind: Any) -> dict[str, Any]:
    """features.json of a leaf's name, of a dict of features, or of a sequence of features, written [kind]."""
    module = "tensorflow_datasets.core.features."
    if isinstance(kind, dict):
        inner = {name: feature(one) for name, one in kind.items()}
        return {
            "pythonClassName": module + "features_dict.FeaturesDict",
            "featuresDict": {"features": inner},
        }
    if isinstance(kind, list):
        return {
            "pythonClassName": module + "sequence_feature.Sequence",
            "sequence": {"feature": feature(kind[0]), "length": "-1"},
        }
    file, content = LEAVES[kind]
    return {"pythonClassName": f"{module}{file}.{kind.removeprefix('Float')}", **content}


def png(level: int, channels: int = 1) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((2, 3) if channels == 1 else (2, 3, channels), level, np.uint8)).save(out, "PNG")
    return out.getvalue()


def write(root: Path, features: dict[str, Any], splits: dict[str, list[dict[str, Any]]], file_format="array_record"):
    """A prepared data set `tiny` of version 1.0.0 in root."""
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2

    def pack(value: Any) -> tf_feature_pb2.Feature:
        values = value if isinstance(value, list) else [value]
        if values and isinstance(values[0], int):
            return tf_feature_pb2.Feature(int64_list=tf_feature_pb2.Int64List(value=values))
        return tf_feature_pb2.Feature(bytes_list=tf_feature_pb2.BytesList(value=values))

    folder = root / "tiny" / "1.0.0"
    folder.mkdir(parents=True)
    for split, examples in splits.items():
        writer = ArrayRecordWriter(str(folder / f"tiny-{split}.{file_format}-00000-of-00001"), "group_size:1")
        for example in examples:
            packed = tf_feature_pb2.Features(feature={name: pack(value) for name, value in example.items()})
            writer.write(tf_example_pb2.Example(features=packed).SerializeToString())
        writer.close()
    (folder / "features.json").write_text(json.dumps(feature(features)))
    (folder / "label.labels.txt").write_text("cat\ndog\n")
    info = {
        "name": "tiny",
        "version": "1.0.0",
        "fileFormat": file_format,
        "splits": [
            {
                "name": name,
                "numBytes": "1",
                "shardLengths": [str(len(examples))],
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            }
            for name, examples in splits.items()
        ],
    }
    (folder / "dataset_info.json").write_text(json.dumps(info))


@pytest.fixture
def data_dir(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    return tmp_path


def labelled(n: int) -> list[dict[str, Any]]:
    return [{"image": png(i), "label": i % 2} for i in range(n)]


def levels(source) -> list[int]:
    return [int(source[i].image[0, 0, 0]) for i in range(len(source))]


@pytest.mark.parametrize("name", ["tiny", "tiny:1.0.0", "tiny:1.*.*"])
def test_images_and_labels(data_dir, name):
    write(data_dir, {"image": "Image", "label": "ClassLabel"}, {"train": labelled(5), "test": labelled(3)})
    train, test = (open_source(f"tfds:{name}", split) for split in ("train", "test"))
    assert (levels(train), levels(test)) == (list(range(5)), list(range(3)))
    assert [train[i].label for i in range(5)] == [0, 1, 0, 1, 0]
    assert train.class_names == ("cat", "dog")
    assert train[1].image.shape == (2, 3, 1)
    assert train.annotation(1) == (1, ())
    assert "tensorflow" not in sys.modules


def test_features_are_found_by_type(data_dir):
    features = {"file_name": "Text", "picture": "Image", "words": "Text"}
    example = {"file_name": b"x.png", "picture": png(7, 3), "words": "naïve".encode()}
    write(data_dir, features, {"train": [example], "test": [example]})
    source = open_source("tfds:tiny")
    assert source[0].caption == "naïve"
    assert source[0].label == -1
    assert source.class_names == ()
    np.testing.assert_array_equal(source[0].image, np.full((2, 3, 3), 7))


def test_all_of_several_captions_count(data_dir):
    features = {"captions": [{"id": "Text", "text": "Text"}], "image": "Image"}
    examples = [
        {"image": png(1), "captions/id": [b"8", b"9"], "captions/text": [b"one", b"two", b""]},
        {"image": png(2), "captions/id": [], "captions/text": []},
    ]
    write(data_dir, features, {"train": examples, "test": examples})
    source = open_source("tfds:tiny")
    assert [source[i].captions for i in range(2)] == [("one", "two"), ()]


@pytest.mark.parametrize("names", [("train", "val"), ("training", "valid")])
def test_splits_by_other_names(data_dir, names):
    write(
        data_dir, {"image": "Image", "label": "ClassLabel"}, dict(zip(names, (labelled(5), labelled(3)), strict=True))
    )
    assert [len(open_source("tfds:tiny", split)) for split in ("train", "test", names[1])] == [5, 3, 3]


def test_a_test_split_alone(data_dir):
    write(data_dir, {"image": "Image"}, {"test": [{"image": png(i)} for i in range(4)]})
    assert len(open_source("tfds:tiny", "test")) == 4
    with pytest.raises(InputError, match="accepted: test"):
        open_source("tfds:tiny", "train")


def test_transparency_follows_the_folder_rules(data_dir):
    write(data_dir, {"image": "Image"}, {"train": [{"image": png(0, 4)}], "test": []})
    assert open_source("tfds:tiny")[0].image.tolist() == [[[255] * 3] * 3] * 2


def test_splits(data_dir):
    features = {"image": "Image", "label": "ClassLabel"}
    write(data_dir, features, {"train": labelled(20)})
    train, test = (levels(open_source("tfds:tiny", split)) for split in ("train", "test"))
    assert len(test) == 2
    assert sorted(train + test) == list(range(20))
    with pytest.raises(InputError, match="accepted: train, test"):
        open_source("tfds:tiny", "validation")


def test_validation_stands_in_for_test(data_dir):
    write(data_dir, {"image": "Image", "label": "ClassLabel"}, {"train": labelled(4), "validation": labelled(2)})
    assert len(open_source("tfds:tiny", "train")) == 4
    assert len(open_source("tfds:tiny", "test")) == 2
    assert len(open_source("tfds:tiny", "validation")) == 2


def one_line(spec: str, match: str) -> None:
    with pytest.raises(InputError, match=match) as error:
        open_source(spec)
    assert "\n" not in str(error.value)


def test_not_prepared_or_unknown_or_misspelt(data_dir):
    one_line("tfds:mnist", r"not prepared in .*prepare_tfds\.py mnist")
    one_line("tfds:no_such_set", "nor a data set that TFDS knows")
    one_line("tfds:a b", "not a TFDS name")
    write(data_dir, {"image": "Image"}, {"train": [{"image": png(0)}]})
    one_line("tfds:tiny:9.9.9", "check the name, config and version")


def test_sets_that_cannot_be_used(data_dir):
    write(data_dir / "a", {"label": "ClassLabel"}, {"train": [{"label": 0}]})
    write(data_dir / "b", {"image": "FloatImage"}, {"train": [{"image": png(0)}]})
    write(data_dir / "c", {"image": "Image"}, {"train": [{"image": png(0)}]}, file_format="tfrecord")
    with pytest.MonkeyPatch.context() as patch:
        for folder, message in (("a", "no image feature"), ("b", "images of float32"), ("c", "stored as tfrecord")):
            patch.setenv("TFDS_DATA_DIR", str(data_dir / folder))
            one_line("tfds:tiny", message)


def test_a_broken_record_is_named(data_dir):
    write(data_dir, {"image": "Image"}, {"train": [{"image": b"no image"}], "test": []})
    source = open_source("tfds:tiny")
    with pytest.raises(InputError, match="image 0 cannot be decoded"):
        source[0]
