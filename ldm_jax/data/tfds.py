"""`tfds:NAME`: data sets prepared by TensorFlow Datasets as ArrayRecord, read without TensorFlow.

NAME is written as TFDS writes it: `fashion_mnist`, `coco/2017`, `cifar10:3.0.2`. Prepared data sets are looked for in
TFDS_DATA_DIR, else in TFDS's default folder (~/tensorflow_datasets). `ldm_jax/data/prepare_tfds.py` prepares them.

Features are found by type: the image is the feature `image`, else the first Image; the label is `label`, else the
first ClassLabel; the caption is `caption`, `captions`, `text` or `prompt`, else the first Text whose name does not
speak of a file, an id or a URL. Where a feature is a sequence its first element counts, of captions all (COCO has five
an image).
"""

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ldm_jax.data.decoding import decode
from ldm_jax.data.source import Annotation, Example, Source, check_split, hold_out
from ldm_jax.data.splits import split_of
from ldm_jax.errors import InputError

FeaturePath = tuple[str, ...]


class TfdsSource:
    """One split of a prepared TFDS data set; a Source."""

    def __init__(self, builder: Any, split: str, spec: str):
        import tensorflow_datasets as tfds
        from tensorflow_datasets.proto import tf_example_pb2

        self.spec = spec
        features = builder.info.features
        found = list(_walk(features))
        self.image = _choose(found, tfds.features.Image, ("image",))
        self.label = _choose(found, tfds.features.ClassLabel, ("label",))
        self.caption = _choose(found, tfds.features.Text, ("caption", "captions", "text", "prompt"), _describes)
        if self.image is None:
            raise InputError(f"data.source: {spec} has no image feature; accepted: TFDS data sets of images")
        dtype = np.dtype(dict(found)[self.image].np_dtype)
        if dtype not in (np.uint8, np.uint16):
            raise InputError(f"data.source: {spec} has images of {dtype}; accepted: uint8 and uint16")
        self.class_names: tuple[str, ...] = ()
        if self.label is not None:
            self.class_names = tuple(dict(found)[self.label].names or ())
        # Records are parsed and decoded here: four times as fast as TFDS does it, and images follow a folder's rules.
        self.records = builder.as_data_source(split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
        self.parse = tf_example_pb2.Example.FromString  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def has_captions(self) -> bool:
        """Whether a feature of it is text."""
        return self.caption is not None

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Example:
        record = self.parse(self.records[index])
        try:
            image = decode(_first(record, self.image) or b"")
        except Exception as error:
            raise InputError(f"data.source: {self.spec}: image {index} cannot be decoded ({error})") from error
        return Example(image, *self._annotation(record))

    def annotation(self, index: int) -> Annotation:
        return self._annotation(self.parse(self.records[index]))

    def _annotation(self, record: Any) -> Annotation:
        label, captions = _first(record, self.label), _values(record, self.caption)
        texts = (text.decode("utf-8", "replace") for text in captions)
        return -1 if label is None else label, tuple(text for text in texts if text)


def open_tfds(name: str, split: str) -> Source:
    """Open a split of a data set that TFDS has prepared.

    Any split that the data set has is accepted by its name; "test" falls back on "validation", then on a held-out tenth
    of "train".

    Raises:
      InputError: the data set is unknown, not prepared, not stored as ArrayRecord or has no images, or there is no
        such split.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import naming, read_only_builder, registered

    spec = f"tfds:{name}"
    data_dir = os.environ.get("TFDS_DATA_DIR") or None
    try:
        plain, arguments = naming.parse_builder_name_kwargs(name, data_dir=data_dir)
    except ValueError as error:
        raise InputError(f"data.source: {spec} is not a TFDS name; accepted: NAME[/CONFIG][:VERSION]") from error
    prepare = f"prepare it with `python ldm_jax/data/prepare_tfds.py {name}`"
    try:
        # From the files alone: the data set's own code often needs TensorFlow merely to be imported.
        builder = read_only_builder.builder_from_files(str(plain), **arguments)
    except registered.DatasetNotFoundError as error:
        known = str(plain) in tfds.list_builders(with_community_datasets=False)
        place = data_dir or "~/tensorflow_datasets (set TFDS_DATA_DIR if it is elsewhere)"
        if known:
            raise InputError(f"data.source: {spec} is not prepared in {place}; {prepare}") from error
        raise InputError(
            f"data.source: {spec} is not in {place}, nor a data set that TFDS knows; if it is prepared by code of your "
            "own, check the name, config and version"
        ) from error
    splits = tuple(builder.info.splits)
    if not builder.is_prepared() or not splits:
        raise InputError(f"data.source: {spec} is prepared only in part; {prepare}")
    # Some call them "val" or "training".
    named = {split_of(name): name for name in reversed(splits)} | {name: name for name in splits}
    accepted = splits if "train" not in named else tuple(dict.fromkeys((*splits, "train", "test")))
    check_split(split, accepted, spec)
    try:
        if split == "test" and split not in named and "validation" in named:
            return TfdsSource(builder, named["validation"], spec)
        if split in named and not (named[split] == named.get("train") and not {"test", "validation"} & named.keys()):
            return TfdsSource(builder, named[split], spec)
        return hold_out(TfdsSource(builder, named["train"], spec), split, spec)
    except NotImplementedError as error:
        stored = getattr(builder.info.file_format, "value", builder.info.file_format)
        raise InputError(
            f"data.source: {spec} is stored as {stored}, which cannot be read at random; {prepare} in another folder"
        ) from error


def _walk(feature: Any, path: FeaturePath = ()) -> Iterator[tuple[FeaturePath, Any]]:
    """(path, feature) for every leaf; a sequence does not lengthen the path."""
    import tensorflow_datasets as tfds

    if isinstance(feature, tfds.features.FeaturesDict):
        for name in feature:
            yield from _walk(feature[name], (*path, name))
    elif isinstance(feature, tfds.features.Sequence):
        yield from _walk(feature.feature, path)
    else:
        yield path, feature


def _choose(
    found: list[tuple[FeaturePath, Any]],
    kind: type,
    preferred: tuple[str, ...],
    accept: Callable[[FeaturePath], bool] = lambda path: True,
) -> FeaturePath | None:
    paths = [path for path, feature in found if isinstance(feature, kind) and path and accept(path)]
    for name in preferred:
        for path in paths:
            if path == (name,):
                return path
    return paths[0] if paths else None


def _describes(path: FeaturePath) -> bool:
    words = path[-1].lower().replace("/", "_").split("_")
    return not {"file", "filename", "id", "url", "path", "key"} & set(words)


def _first(record: Any, path: FeaturePath | None) -> Any:
    """The first value (bytes or int) that a tf.train.Example has for a feature, None where it has none."""
    values = _values(record, path)
    return values[0] if values else None


def _values(record: Any, path: FeaturePath | None) -> Any:
    """All values that a tf.train.Example has for a feature."""
    features = record.features.feature
    # TFDS stores a sequence of sequences flat, under a name of its own.
    for key in () if path is None else ("/".join(path), "/".join((*path, "ragged_flat_values"))):
        if key in features:
            feature = features[key]
            return feature.bytes_list.value or feature.int64_list.value
    return ()
