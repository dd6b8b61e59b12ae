import json
import logging
from pathlib import Path

import pytest
from PIL import Image

from ldm_jax.data import folder as folder_module
from ldm_jax.data import open_source
from ldm_jax.data.folder import FolderSource
from ldm_jax.data.layout import Picture
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


def test_train_is_a_class_where_other_classes_stand_beside_it(tmp_path):
    draw(tmp_path / "train" / "0.png")
    draw(tmp_path / "plane" / "0.png")
    assert open_source(f"folder:{tmp_path}").class_names == ("plane", "train")


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
        ("metadata.jsonl", "{broken", "cannot be read"),
        ("metadata.jsonl", '{"file_name": "0.png", "text": "x"}\n["0.png"]', "line 2"),
        ("metadata.jsonl", '{"file_name": "0.png"}', "line 1"),
        ("metadata.jsonl", '{"file_name": "0.png", "text": 3}', "line 1"),
        ("metadata.jsonl", '{"file_name": "../0.png", "text": "x"}', "leads out"),
        ("metadata.jsonl", "", "no images"),
        ("metadata.csv", "name,text\n0.png,x\n", "row 1"),
        ("metadata.csv", "file_name,text\n0.png\n", "row 1"),
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
