import json
import logging
from pathlib import Path

import pytest
from PIL import Image

from ldm_jax.data import folder as folder_module
from ldm_jax.data import open_source
from ldm_jax.data.folder import FolderSource
from ldm_jax.data.layout import Picture
from ldm_jax.data.splits import split_of
from ldm_jax.errors import InputError


def draw(path: Path, level: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (3, 2), level).save(path)


def levels(source) -> list[int]:
    return [int(source[i].image[0, 0, 0]) for i in range(len(source))]


def labels(source) -> list[int]:
    return [source[i].label for i in range(len(source))]


def test_classes_are_the_sorted_sub_folders_at_any_depth(tmp_path):
    for i in range(6):
        draw(tmp_path / "dog" / "deep" / f"{i}.png", i)
        draw(tmp_path / "cat" / f"{i}.PNG", 100 + i)
    draw(tmp_path / ".hidden" / "x.png")
    draw(tmp_path / "cat" / "._x.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    train, test = (open_source(f"folder:{tmp_path}", split) for split in ("train", "test"))
    assert train.class_names == test.class_names == ("cat", "dog")
    assert (len(train), len(test)) == (11, 1)
    assert sorted(levels(train) + levels(test)) == [*range(6), *range(100, 106)]
    for part in (train, test):
        assert [level < 100 for level in levels(part)] == [label == 1 for label in labels(part)]


def test_flat_folder_has_no_labels(tmp_path):
    for i in range(3):
        draw(tmp_path / f"{i}.png", i)
    source = open_source(f"folder:{tmp_path}")
    assert source.class_names == ()
    assert set(labels(source)) == {-1}


def test_split_folders_share_their_classes(tmp_path):
    draw(tmp_path / "train" / "b" / "0.png", 1)
    draw(tmp_path / "train" / "c" / "0.png", 2)
    draw(tmp_path / "test" / "a" / "0.png", 3)
    draw(tmp_path / "test" / "c" / "0.png", 4)
    train, test = (open_source(f"folder:{tmp_path}", split) for split in ("train", "test"))
    assert train.class_names == test.class_names == ("a", "b", "c")
    assert (levels(train), labels(train)) == ([1, 2], [1, 2])
    assert (levels(test), labels(test)) == ([3, 4], [0, 2])


def test_validation_stands_in_for_test(tmp_path):
    draw(tmp_path / "train" / "0.png", 1)
    draw(tmp_path / "validation" / "0.png", 2)
    assert levels(open_source(f"folder:{tmp_path}", "test")) == [2]
    assert levels(open_source(f"folder:{tmp_path}", "validation")) == [2]
    assert levels(open_source(f"folder:{tmp_path}", "train")) == [1]


def test_train_folder_alone_is_divided(tmp_path):
    for i in range(10):
        draw(tmp_path / "train" / f"{i}.png", i)
    train, test = (levels(open_source(f"folder:{tmp_path}", split)) for split in ("train", "test"))
    assert (len(train), len(test)) == (9, 1)
    assert sorted(train + test) == list(range(10))


def test_train_is_a_class_where_other_classes_stand_beside_it(tmp_path, caplog):
    draw(tmp_path / "train" / "0.png")
    draw(tmp_path / "plane" / "0.png")
    assert open_source(f"folder:{tmp_path}").class_names == ("plane", "train")
    assert "'train' is taken for a class, not for a split, as 'plane' stands beside it" in caplog.text


@pytest.mark.parametrize("train", ["train", "Train", "TRAINING", "train2017"])
@pytest.mark.parametrize("other", ["val", "Valid", "validation", "TEST", "testing", "test1", "val_images"])
def test_names_of_splits(tmp_path, train, other):
    for name, levels_of in ((train, (1, 2)), (other, (3, 4))):
        for animal, level in zip(("cat", "dog"), levels_of, strict=True):
            draw(tmp_path / name / animal / "0.png", level)
    (tmp_path / "annotations").mkdir()
    train, test = (open_source(f"folder:{tmp_path}", split) for split in ("train", "test"))
    assert train.class_names == test.class_names == ("cat", "dog")
    assert (levels(train), levels(test)) == ([1, 2], [3, 4])
    assert labels(test) == [0, 1]


@pytest.mark.parametrize("name", ["trainer", "contest", "value", "valley", "testimony", "train a", "intrain", "vals"])
def test_names_of_no_split(name):
    assert split_of(name) is None


def test_splits_within_classes_and_a_folder_deeper(tmp_path):
    for i, animal in enumerate(("cat", "dog")):
        draw(tmp_path / "inside" / animal / "train" / "0.png", i)
        draw(tmp_path / "inside" / animal / "val" / "0.png", 10 + i)
        draw(tmp_path / "deeper" / "images" / "train" / animal / "0.png", i)
        draw(tmp_path / "deeper" / "images" / "val" / animal / "0.png", 10 + i)
    for name in ("inside", "deeper"):
        train, test = (open_source(f"folder:{tmp_path / name}", split) for split in ("train", "test"))
        assert train.class_names == ("cat", "dog")
        assert (levels(train), labels(train)) == ([0, 1], [0, 1])
        assert (levels(test), labels(test)) == ([10, 11], [0, 1])


def test_a_split_that_only_some_classes_have_is_said(tmp_path, caplog):
    draw(tmp_path / "cat" / "train" / "0.png")
    draw(tmp_path / "dog" / "0.png")
    assert open_source(f"folder:{tmp_path}").class_names == ("cat", "dog")
    assert "cat/train/ is taken for a part of a class, not for a split" in caplog.text


def test_without_a_train_split_the_others_can_be_read(tmp_path):
    draw(tmp_path / "test" / "0.png", 7)
    assert levels(open_source(f"folder:{tmp_path}", "test")) == [7]
    with pytest.raises(InputError, match=r"'train' is not a split of .*; accepted: test"):
        open_source(f"folder:{tmp_path}")


def test_links_are_followed_where_classes_and_splits_are(tmp_path, caplog):
    for i in range(4):
        draw(tmp_path / "elsewhere" / f"{i}.png", i)
    draw(tmp_path / "photos" / "train" / "dog" / "0.png", 10)
    draw(tmp_path / "photos" / "test" / "dog" / "0.png", 11)
    (tmp_path / "photos" / "train" / "cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos" / "train" / "dog" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos" / "train" / "dog" / "loop").symlink_to(tmp_path / "photos")
    source = open_source(f"folder:{tmp_path / 'photos'}")
    assert (levels(source), labels(source)) == ([0, 1, 2, 3, 10], [0, 0, 0, 0, 1])
    assert "used 6 of 12 files; not used: 6 behind a link" in caplog.text


def test_rows_without_a_file_are_not_counted_as_used(tmp_path, caplog):
    for i in range(3):
        draw(tmp_path / f"{i}.png", i)
    (tmp_path / "x.heic").write_bytes(b"")
    names = [*(f"{i}.png" for i in range(3)), "gone.png"]
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps({"file_name": n, "text": n}) + "\n" for n in names))
    open_source(f"folder:{tmp_path}")
    assert "used 3 of 4 files; not used: 1 .heic" in caplog.text


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\r"])
@pytest.mark.parametrize("kind", ["jsonl", "csv", "txt"])
def test_lines_end_at_newlines_alone(tmp_path, character, kind):
    caption = f"a cat{character}asleep"
    for i in range(2):
        draw(tmp_path / f"{i}.png", i)
        (tmp_path / f"{i}.txt").write_bytes(f"{caption}\n".encode()) if kind == "txt" else None
    if kind == "jsonl":
        lines = [json.dumps({"file_name": f"{i}.png", "text": caption}, ensure_ascii=False) for i in range(2)]
        (tmp_path / "metadata.jsonl").write_bytes("\r\n".join(lines).encode())
    elif kind == "csv":
        lines = ["file_name,text", *(f'{i}.png,"{caption}"' for i in range(2))]
        (tmp_path / "metadata.csv").write_bytes("\r\n".join(lines).encode())
    assert open_source(f"folder:{tmp_path}")[0].captions == (caption,)


@pytest.mark.parametrize("key", ["file_name", "filename", "file", "image", "image_path", "path"])
@pytest.mark.parametrize("text", ["text", "caption", "captions", "prompt"])
def test_usual_names_of_columns(tmp_path, key, text, caplog):
    for i in range(2):
        draw(tmp_path / f"{i}.png", i)
    rows = [{key: f"{i}.png", text: ["one", "two", "one", ""], "width": 3} for i in range(2)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert open_source(f"folder:{tmp_path}")[0].captions == ("one", "two")
    assert "columns not read: width" in caplog.text


def test_rows_of_one_picture_are_its_captions(tmp_path):
    for i in range(2):
        draw(tmp_path / f"{i}.png", i)
    rows = [{"file_name": f"{i % 2}.png", "text": f"wording {i // 2}"} for i in range(6)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    train, test = (open_source(f"folder:{tmp_path}", split) for split in ("train", "test"))
    assert (len(train), len(test)) == (1, 1)
    assert train[0].captions == test[0].captions == ("wording 0", "wording 1", "wording 2")


def test_what_is_known_of_each_is_kept(tmp_path):
    """Of ten pictures in class folders three have a caption in the metadata, one in a text file."""
    for i in range(10):
        draw(tmp_path / ("cat" if i < 5 else "dog") / f"{i}.png", i)
    rows = [{"file_name": f"{'cat' if i < 5 else 'dog'}/{i}.png", "text": f"number {i}"} for i in (8, 0, 4)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "dog" / "8.txt").write_text("eight\n\nhuit\n")
    found = {}
    for split in ("train", "test"):
        source = open_source(f"folder:{tmp_path}", split)
        assert source.class_names == ("cat", "dog")
        found |= {int(source[i].image[0, 0, 0]): source.annotation(i) for i in range(len(source))}
    captions = {0: ("number 0",), 4: ("number 4",), 8: ("number 8", "eight", "huit")}
    assert found == {i: (int(i >= 5), captions.get(i, ())) for i in range(10)}


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ((10, 9, 10), ("9", "10")),
        (("b", "a", "b"), ("a", "b")),
        ((1, None, "x"), ("1", "x")),
        ((0, 0, 0), ("0",)),
        (("test",) * 3, ("test",)),
    ],
)
def test_labels_of_the_metadata(tmp_path, values, names):
    for i in range(3):
        draw(tmp_path / "train" / f"{i}.png", i)
    draw(tmp_path / "test" / "9.png", 9)
    rows = [{"file_name": f"train/{i}.png", "label": value} for i, value in enumerate(values)]
    rows.append({"file_name": "test/9.png"})
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = open_source(f"folder:{tmp_path}")
    assert source.class_names == names
    assert labels(source) == [-1 if value is None else names.index(str(value)) for value in values]
    assert labels(open_source(f"folder:{tmp_path}", "test")) == [-1]


@pytest.mark.parametrize("split", ["", "valid", "validation"])
def test_unknown_split(tmp_path, split):
    draw(tmp_path / "0.png")
    with pytest.raises(InputError, match="accepted: train, test"):
        open_source(f"folder:{tmp_path}", split)


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_captions_from_metadata(tmp_path, kind):
    draw(tmp_path / "images" / "a.png", 1)
    draw(tmp_path / "b.png", 2)
    draw(tmp_path / "unlisted.png", 3)
    rows = [("images/a.png", 'a "quoted", naïve one'), ("b.png", "two")]
    if kind == "jsonl":
        text = "\n".join(json.dumps({"file_name": name, "text": text, "more": 1}) for name, text in rows) + "\n\n"
    else:
        text = '\ufefffile_name,text\nimages/a.png,"a ""quoted"", naïve one"\nb.png,two\n'
    (tmp_path / f"metadata.{kind}").write_text(text, "utf-8")
    train, test = (open_source(f"folder:{tmp_path}", split) for split in ("train", "test"))
    found = {int(example.image[0, 0, 0]): example.caption for example in (train[0], test[0])}
    assert found == {1: rows[0][1], 2: rows[1][1]}
    assert train.class_names == ()


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("metadata.jsonl", "{broken", "line 1: no JSON"),
        ("metadata.jsonl", '{"file_name": "0.png", "text": "x"}\n\n{"file_name": "0.png"', r"line 3: no JSON \(.*char"),
        ("metadata.jsonl", '{"file_name": "0.png", "text": "x"}\n["0.png"]', "line 2"),
        ("metadata.jsonl", '{"file_name": "0.png"}', "line 1"),
        ("metadata.jsonl", '{"file_name": "0.png", "text": 3}', "line 1"),
        ("metadata.jsonl", '{"file_name": "../0.png", "text": "x"}', "leads out"),
        ("metadata.jsonl", "", "no images"),
        ("metadata.csv", "name,text\n0.png,x\n", "row 1"),
        ("metadata.csv", "file_name,text\n0.png\n", "row 1"),
        ("metadata.csv", "file_name,text\n0.png,a cat, asleep\n", "row 1.*as many cells"),
        ("metadata.jsonl", '{"file_name": "0.png", "label": 0.5}', "label is 0.5"),
        ("metadata.jsonl", '{"file_name": "0.png", "text": "x", "split": "extra"}', "split is 'extra'"),
        ("metadata.csv", "file_name,text\n/etc/0.png,x\n", "leads out"),
    ],
)
def test_malformed_metadata_is_one_line(tmp_path, name, text, what):
    draw(tmp_path / "0.png")
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=what) as error:
        open_source(f"folder:{tmp_path}")
    assert "\n" not in str(error.value)


def test_broken_images_are_named_counted_and_skipped(tmp_path, caplog):
    for i in range(4):
        draw(tmp_path / "a" / f"{i}.png", i)
    (tmp_path / "a" / "cut.png").write_bytes((tmp_path / "a" / "0.png").read_bytes()[:40])
    (tmp_path / "a" / "text.jpg").write_text("no image")
    with caplog.at_level(logging.WARNING, "ldm_jax.data"):
        source = open_source(f"folder:{tmp_path}", "train")
    assert len(source) == 3
    (record,) = caplog.records
    assert "2 of 6 images cannot be read" in record.getMessage()
    assert "a/cut.png (" in record.getMessage()
    assert "a/text.jpg (" in record.getMessage()


def test_of_many_broken_images_only_some_are_named(tmp_path, caplog):
    draw(tmp_path / "good.png")
    for i in range(30):
        (tmp_path / f"{i:02}.png").write_text("")
    source = open_source(f"folder:{tmp_path}")
    assert len(source) == 1
    assert "30 of 31" in caplog.text
    assert "and 20 more" in caplog.text


def test_missing_files_of_the_metadata_are_broken_images(tmp_path, caplog):
    draw(tmp_path / "0.png")
    rows = [json.dumps({"file_name": name, "text": "x"}) for name in ("0.png", "gone.png")]
    (tmp_path / "metadata.jsonl").write_text("\n".join(rows))
    assert len(open_source(f"folder:{tmp_path}")) == 1
    assert "1 of 2 images cannot be read: gone.png (No such file or directory)" in caplog.text


def test_no_image_that_can_be_read_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        open_source(f"folder:{tmp_path / 'missing'}")
    with pytest.raises(InputError, match="holds no images; accepted"):
        open_source(f"folder:{tmp_path}")
    (tmp_path / "x.png").write_text("")
    with pytest.raises(InputError, match=r"1 of 1 images cannot be read: x.png"):
        open_source(f"folder:{tmp_path}")


def test_images_beside_class_folders_are_an_error(tmp_path):
    draw(tmp_path / "a" / "0.png")
    draw(tmp_path / "cover.png")
    with pytest.raises(InputError, match=r"cover\.png"):
        open_source(f"folder:{tmp_path}")


def test_checks_are_remembered_until_a_file_changes(tmp_path, monkeypatch):
    for i in range(3):
        draw(tmp_path / f"{i}.png", i)
    checked = []
    check = folder_module.check_decodes
    monkeypatch.setattr(folder_module, "check_decodes", lambda file: checked.append(file.name) or check(file))
    open_source(f"folder:{tmp_path}")
    assert sorted(checked) == ["0.png", "1.png", "2.png"]
    checked.clear()
    open_source(f"folder:{tmp_path}")
    assert checked == []
    (tmp_path / "1.png").write_text("now broken")
    assert len(open_source(f"folder:{tmp_path}")) + len(open_source(f"folder:{tmp_path}", "test")) == 2
    assert checked == ["1.png"]


def test_a_spoilt_or_unwritable_cache_does_no_harm(tmp_path, monkeypatch):
    draw(tmp_path / "images" / "0.png")
    spec = f"folder:{tmp_path / 'images'}"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    open_source(spec)
    (file,) = (tmp_path / "cache" / "ldm_jax" / "folders").iterdir()
    for spoilt in ("", "[]", "{}", '{"pillow": 1, "files": 3}'):
        file.write_text(spoilt)
        assert len(open_source(spec)) == 1
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(open_source(spec)) == 1


def test_an_image_that_vanishes_later_is_named(tmp_path):
    draw(tmp_path / "0.png")
    source = open_source(f"folder:{tmp_path}")
    (tmp_path / "0.png").unlink()
    with pytest.raises(InputError, match=r"0\.png can no longer be read"):
        source[0]


def test_annotation_does_not_decode(tmp_path):
    source = FolderSource([Picture(tmp_path / "not there.png", 3, ("words",), None)])
    assert source.annotation(0) == (3, ("words",))
    assert len(source) == 1
