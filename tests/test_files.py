"""Checks of what is to be written, and files that are whole or not there."""

import shutil

import pytest

from ldm_jax.errors import InputError
from ldm_jax.files import check_file, check_folder, check_room, megabytes, whole


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("x.txt", "out: x.txt must end in .json"),
        ("folder.json", "out: folder.json is a folder; name a file with this ending"),
        ("old.json", "out: old.json exists; name another file, or add --overwrite to replace it"),
        ("link.json", "out: link.json exists; name another file"),
        ("old.json/x.json", "out: old.json can't be written ("),
        ("/proc/nowhere/x.json", "out: /proc/nowhere can't be written ("),
        (f"{'x' * 250}.json", "File name too long"),
        (f"{'x' * 260}/x.json", "File name too long"),
        ("\0.json", "null byte"),
    ],
)
def test_files_that_cant_be_written(place, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "old.json").write_text("old")
    (tmp_path / "link.json").symlink_to("nowhere")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError) as caught:
        check_file(type(tmp_path)(place), (".json",), overwrite=False)
    assert words in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_check_leaves_nothing_behind(tmp_path):
    check_file(tmp_path / "a" / "b" / "x.json", (".json",), overwrite=False)
    check_folder(tmp_path / "c" / "d")
    assert not list(tmp_path.iterdir())


def test_a_disk_without_room(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    check_room(tmp_path / "a" / "x.npz", 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=3_000_000))
    with pytest.raises(InputError) as caught:
        check_room(tmp_path / "a" / "x.npz", 12_345_678)
    assert str(caught.value) == f"out: {tmp_path / 'a' / 'x.npz'} needs about 12 MB, 3.0 MB are free"
    assert (megabytes(300_000), megabytes(1_234_567_890)) == ("0.3 MB", "1,235 MB")


def test_a_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / "a" / "x.txt"

    def fail():
        with whole(path) as temporary:
            temporary.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk"):
        fail()
    assert not list(path.parent.iterdir())
    with whole(path) as temporary:
        temporary.write_text("all")
        assert not path.exists()
    assert path.read_text() == "all" and len(list(path.parent.iterdir())) == 1
