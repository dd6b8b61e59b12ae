"""The user's own config file: whatever is wrong with it is one line."""

import json
import os
import subprocess
import sys

import pytest

from ldm_jax.cli import run
from ldm_jax.configfile import load_config
from ldm_jax.errors import InputError
from tests.conftest import ROOT

TIMES = (
    "from ldm_jax.diffusion.process import Process; from ldm_jax.diffusion.time_choices import LogitNormal; "
    "return ldm_jax.Config(process=Process(times=LogitNormal(mean=1e999)))"
)
BEGIN = "import ldm_jax\nfrom ldm_jax.config import DataConfig\n"


def body(line, before=BEGIN):
    return f"{before}def get_config():\n    {line}\n    return ldm_jax.Config()\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            body("f(x=1)", f"{BEGIN}def f(): pass\n"),
            "a.py line 5: TypeError: f() got an unexpected keyword argument 'x'",
        ),
        (body("DataConfig(batch_size=0)"), "a.py line 4: data.batch_size: 0 must be at least 1"),
        (body("undefined"), "a.py line 4: NameError: name 'undefined' is not defined"),
        (body("1 / 0"), "a.py line 4: ZeroDivisionError: division by zero"),
        (body("raise KeyError"), "a.py line 4: KeyError"),
        (body("raise SystemExit"), "a.py line 4: SystemExit"),
        ("x = 1\nimport nowhere\n", "a.py line 2: ModuleNotFoundError: No module named 'nowhere'"),
        ("from ldm_jax import Confg\n", "a.py line 1: ImportError: cannot import name 'Confg' from 'ldm_jax'"),
        ("\nopen('/nowhere/at/all')\n", "a.py line 2: FileNotFoundError: [Errno 2] No such file or directory"),
        ("def get_config(:", "a.py line 1 is not Python (invalid syntax)"),
        ("x = '\0'", "a.py"),
        ("def get_config(name): return 3", "a.py describes a family; name one of it, as in"),
        (body("return ldm_jax.Config(seed=-1)"), "seed: -1 must be between 0 and 18446744073709551615"),
        (
            body(TIMES),
            "process.times.mean: inf must be a finite number",
        ),
    ],
)
def test_python_that_fails(text, words, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.py").write_text(text)
    assert run("train", ["a.py"]) == 2
    out, err = capfd.readouterr()
    assert words in err and err.startswith("train: error: ") and err.count("\n") == 1
    assert out == "" and [p.name for p in tmp_path.iterdir()] == ["a.py"]


UNKNOWN = """
import sys
from ldm_jax.configfile import load_config
from ldm_jax.errors import InputError
for path in sys.argv[1:]:
    try:
        load_config(path)
    except InputError as error:
        print(error)
"""


def test_a_field_that_doesn_t_exist(tmp_path):
    # In a process of its own: where types are checked, as in these tests, Python's message lacks the class.
    replaced = "import dataclasses; dataclasses.replace(ldm_jax.Config(), sead=1)"
    own = "@__import__('dataclasses').dataclass\nclass Own:\n    a: int = 0\n"
    texts = {"a.py": body("DataConfig(image_sise=32)"), "b.py": body(replaced), "c.py": body("Own(x=1)", BEGIN + own)}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    command = [sys.executable, "-c", UNKNOWN, *texts]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    lines = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True).stdout.splitlines()
    assert lines[0] == (
        "config: a.py line 4: DataConfig has no field 'image_sise' (perhaps image_size?); "
        "accepted: source, image_size, batch_size, flip, limit, latents"
    )
    assert lines[1].startswith("config: b.py line 4: Config has no field 'sead' (perhaps seed?); accepted: data, ")
    assert lines[2] == "config: c.py line 7: Own has no field 'x'; accepted: a"


def test_the_error_itself_is_the_cause(tmp_path):
    (tmp_path / "a.py").write_text(body("1 / 0"))
    with pytest.raises(InputError) as caught:
        load_config(tmp_path / "a.py")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\xff\xfe", "can't be read ('utf-8' codec"),
        (b'{"seed": 18446744073709551616}', "seed: 18446744073709551616 must be between 0 and 18446744073709551615"),
        (b'{"diffusion": {"times_mean": NaN}}', "process.times.mean: nan must be a finite number"),
        (b'{"sampling": {"interval": [0.0, Infinity]}}', "sampling.rule.interval: inf must be a finite number"),
    ],
)
def test_json_that_fails(data, words, tmp_path):
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(InputError) as caught:
        load_config(tmp_path / "a.json")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--denoiser-training.learning-rate", "nan"], "stages.1.learning_rate: nan must be a finite number"),
        (["--autoencoder-training.clip", "1e999"], "stages.0.clip: inf must be a finite number"),
        (["--sampling.guidance", "inf"], "sampling.guidance: inf must be a finite number"),
        (["--seed", "18446744073709551616"], "seed: 18446744073709551616 must be between 0 and 18446744073709551615"),
        (["--seed", "-1"], "seed: -1 must be between 0"),
    ],
)
def test_numbers_on_the_command_line(args, words, tiny_config, tmp_path, capfd):
    (tmp_path / "tiny.json").write_text(tiny_config.to_json())
    assert run("train", [str(tmp_path / "tiny.json"), "--workdir", str(tmp_path / "run"), *args]) == 2
    err = capfd.readouterr().err
    assert words in err and err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_file_and_one_of_a_family(tmp_path):
    (tmp_path / "a.py").write_text(
        "from ldm_jax import Config\ndef get_config(name='b'):\n    return Config(seed=len(name))\n"
    )
    assert load_config(tmp_path / "a.py").seed == 1
    assert load_config(f"{tmp_path / 'a.py'}:four").seed == 4
    (tmp_path / "a.json").write_text(json.dumps({"seed": 2**64 - 1}))
    assert load_config(tmp_path / "a.json").seed == 2**64 - 1
