"""Every layout that docs/data.md shows is made and read, and gives the lines that stand below it."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldm_jax.data import open_source, summary
from ldm_jax.errors import InputError
from ldm_jax.output import SampleMetadata, write_output

PAGE = Path(__file__).parents[2] / "docs" / "data.md"
SHOWN = re.findall(r"```(\w*)\n(.*?)```\n\n((?:    [^ \n][^\n]*\n)+)", PAGE.read_text("utf-8"), re.DOTALL)


def build(tree: str, root: Path) -> None:
    """The files of a tree: folders end in /, `0.png ... 9.png` are ten, lines after | are a file's content."""
    folders: list[Path] = [root]
    file = root
    for line in tree.splitlines():
        name = line.strip()
        depth = (len(line) - len(line.lstrip())) // 2
        if name.startswith("|"):
            with file.open("a", encoding="utf-8") as opened:
                opened.write(name[2:] + "\n")
            continue
        file = folders[depth] / name
        if name.endswith("/"):
            file.mkdir()
            folders[depth + 1 :] = [file]
            continue
        first, _, last = name.partition(" ... ")
        names = [name] if not last else [f"{i}.png" for i in range(int(Path(first).stem), int(Path(last).stem) + 1)]
        for image in names:
            if image.endswith(".png"):
                Image.fromarray(np.full((4, 3), len(image), np.uint8)).save(folders[depth] / image)


@pytest.mark.parametrize(("kind", "content", "lines"), SHOWN)
def test_layout(kind, content, lines, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    if kind == "python":
        images = np.arange(20 * 8 * 8 * 3, dtype=np.uint32).reshape(20, 8, 8, 3).astype(np.uint8)
        exec(content, {"np": np, "images": images})
    elif kind == "":
        build(content, tmp_path)
    *warnings, found = (line.strip() for line in lines.splitlines())
    if found.startswith("data.source: "):
        with pytest.raises(InputError) as error:
            open_source(found.removeprefix("data.source: ").split(": ")[0])
        assert str(error.value) == found
        return
    spec = found.partition(": ")[0]
    train, test = (open_source(spec, split) for split in ("train", "test"))
    assert f"{spec}: {summary(train, test)}" == found
    assert list(dict.fromkeys(record.getMessage() for record in caplog.records)) == warnings


def test_the_page_shows_all_kinds():
    assert len(SHOWN) == PAGE.read_text("utf-8").count("```") // 2 > 25


@pytest.mark.parametrize(
    ("labels", "texts", "names"),
    [([3, 7] * 5, ["coat", "bag"] * 5, ("3", "7")), (None, [f"a cat, {i}" for i in range(10)], ()), (None, None, ())],
)
@pytest.mark.parametrize("name", ["drawn.npz", "drawn"])
def test_what_is_drawn_is_a_source(name, labels, texts, names, tmp_path, caplog):
    images = np.arange(10 * 4 * 4 * 3, dtype=np.uint16).reshape(10, 4, 4, 3).astype(np.uint8)
    settings = {"seed": 0, "prompts": texts if labels is None else None}
    write_output(
        tmp_path / name, iter([images[:6], images[6:]]), SampleMetadata(10, 0, labels, texts, settings), columns=5
    )
    spec = f"{'npz' if name.endswith('.npz') else 'folder'}:{tmp_path / name}"
    seen = []
    for split in ("train", "test"):
        source = open_source(spec, split)
        assert source.class_names == names
        for i in range(len(source)):
            image, label, captions = source[i][:3]
            (k,) = np.flatnonzero((images == image).all((1, 2, 3)))
            seen.append(int(k))
            assert captions == (() if texts is None else (texts[k],))
            assert label == (-1 if labels is None else names.index(str(labels[k])))
    assert sorted(seen) == list(range(10))
    assert "not read" not in caplog.text


def test_drawn_classes_keep_their_names(tmp_path):
    """Of a model of ten classes two were drawn: the labels that are read back mean what they meant."""
    names = tuple(f"class {i}" for i in range(10))
    labels = [3, 7] * 10
    drawn = SampleMetadata(20, 0, labels, [names[label] for label in labels], {}, names)
    write_output(tmp_path / "x.npz", iter([np.zeros((20, 4, 4, 1), np.uint8)]), drawn, columns=5)
    source = open_source(f"npz:{tmp_path / 'x.npz'}")
    assert source.class_names == names
    assert all(source[i].captions == (names[source[i].label],) for i in range(len(source)))
