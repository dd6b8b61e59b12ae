"""What all commands have in common: errors in one line, exit codes, closed pipes, Ctrl-C."""

import errno
import logging
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

from ldm_jax import cli
from ldm_jax.cli import COMMANDS, command, main, run
from ldm_jax.cli.command import guarded, outcome
from ldm_jax.errors import Diverged, InputError, Stopped
from tests.conftest import ROOT

DOCS = (ROOT / "docs" / "commands.md").read_text()


def raised(error):
    """The exit code of a command that ends with an error."""

    def action():
        raise error

    return guarded("draw", action)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("num: 0\n must be at least 1"), 2, "draw: error: num: 0 must be at least 1"),
        (Stopped("denoiser: stopped at step 3 of 9"), 3, "draw: denoiser: stopped at step 3 of 9"),
        (Diverged("denoiser: loss nan at step 3"), 4, "draw: error: denoiser: loss nan at step 3"),
        (KeyboardInterrupt(), 130, "draw: interrupted"),
        (KeyboardInterrupt("2 of 3 pictures are in x"), 130, "draw: interrupted; 2 of 3 pictures are in x"),
        (MemoryError(), 1, "draw: error: out of memory; a smaller batch size needs less"),
        (
            OSError(errno.ENOSPC, "No space left on device", "runs/a/x.tmp"),
            1,
            "draw: error: No space left on device: runs/a/x.tmp",
        ),
        (
            ModuleNotFoundError("No module named 'sklearn'", name="sklearn.neural_network"),
            1,
            "draw: error: the package sklearn is not installed; pip install scikit-learn",
        ),
        (OSError(errno.EROFS, "Read-only file system"), 1, "draw: error: Read-only file system"),
        (ValueError("tensorstore: write: No space left on device [os=28]"), 1, "draw: error: No space left on device"),
    ],
)
def test_each_end_has_its_code_and_one_line(error, code, line, capfd):
    assert raised(error) == code
    assert capfd.readouterr() == ("", f"{line}\n")


def test_a_device_without_memory_is_one_line(capfd):
    assert raised(RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes")) == 1
    assert capfd.readouterr().err.startswith("draw: error: out of memory (RESOURCE_EXHAUSTED: Out of memory while")


def test_what_led_to_an_error_is_told():
    error = RuntimeError("the checkpoint failed")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert outcome(error) == (1, "error: No space left on device")
    group = ExceptionGroup("threads", [ValueError("a"), OSError(errno.ENOSPC, "No space left on device")])
    assert outcome(group) == (1, "error: No space left on device")


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        raised(ZeroDivisionError())


def test_debug_shows_the_traceback(tmp_path, capfd):
    args = [str(tmp_path / "nothing.py")]
    assert run("train", args) == 2
    assert "Traceback" not in capfd.readouterr().err
    assert run("train", [*args, "--debug"]) == 2
    err = capfd.readouterr().err
    assert err.startswith("Traceback") and "load_config" in err and err.count("train: error: config:") == 1


class Closed:
    """A stdout whose reader has gone."""

    encoding = "utf-8"

    def write(self, text):
        raise BrokenPipeError

    def flush(self):
        raise BrokenPipeError

    def fileno(self):
        raise ValueError("no file")

    def isatty(self):
        return False


@pytest.mark.parametrize(("name", "args"), [("inspect", "MODEL"), ("sample", "--help"), ("train", "--help")])
def test_a_closed_pipe_ends_quietly(name, args, trained, monkeypatch, capfd):
    monkeypatch.setattr(sys, "stdout", Closed())
    assert run(name, [str(trained) if args == "MODEL" else args]) == (141 if args == "MODEL" else 0)
    assert capfd.readouterr() == ("", "")


def test_the_fields_help_through_head():
    # A real pipe, whose buffer outlives the reader.
    line = f"{sys.executable} train.py configs/quickstart.py --help | head -n 3; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 3)


INTERRUPTED = """
import sys
import ldm_jax.cli
assert "jax" not in sys.modules and "numpy" not in sys.modules, "Ctrl-C while they are imported would be a traceback"
import ldm_jax.runtime
def configure():
    raise KeyboardInterrupt
ldm_jax.runtime.configure = configure
sys.exit(ldm_jax.cli.run("train", ["configs/quickstart.py"]))
"""


def test_ctrl_c_in_the_first_second():
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "train: interrupted\n")


def test_nobody_is_warned_twice(capfd):
    log = logging.getLogger("ldm_jax")
    handler = logging.StreamHandler(sys.stderr)
    logging.getLogger().addHandler(handler)

    def action():
        for _ in range(3):
            log.warning("folder:x: 2 of 9 images cannot be read")
        log.warning("folder:y: 2 of 9 images cannot be read")
        return 0

    try:
        for _ in range(2):
            assert guarded("draw", action) == 0
            assert capfd.readouterr().err.splitlines() == [
                f"folder:{name}: 2 of 9 images cannot be read" for name in "xy"
            ]
    finally:
        logging.getLogger().removeHandler(handler)


def test_main_dispatches(capfd):
    assert main(["--help"]) == 0
    out = capfd.readouterr().out
    assert all(f"\n  {name} " in out for name in COMMANDS)
    assert main([]) == 0
    assert main(["--version"]) == 0
    assert re.search(r"ldm-jax \d+\.\d+\.\d+\n$", capfd.readouterr().out)
    assert main(["fly"]) == 2
    expected = f"ldm-jax: error: command 'fly' must be one of {', '.join(COMMANDS)}\n"
    assert capfd.readouterr().err == expected


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_documented(name, capfd):
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    # Of train the fields of an experiment are left out, which are documented where they are defined.
    options = set(re.findall(r"(?<![\w-])--[a-z-]+", capfd.readouterr().out.split("Any field of")[0]))
    missing = sorted(option for option in options if not re.search(rf"(?<![\w-]){option}(?![\w-])", DOCS))
    assert f"## {name}" in DOCS and not missing


def test_the_exit_codes_are_documented():
    rows = {int(code): words for code, words in re.findall(r"^\| (\d+) \| (.*) \|$", DOCS, re.M)}
    codes = {value for name, value in vars(command).items() if name.isupper() and isinstance(value, int)}
    assert set(rows) == codes == {0, 1, 2, 3, 4, 130, 141}


def test_each_module_of_a_command_runs_it():
    done = subprocess.run(
        [sys.executable, "-m", "ldm_jax.cli.convert", "nowhere", "x"], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "convert: error: src: nowhere does not exist\n")


def test_a_command_warns_once_of_the_same(monkeypatch, capsys):
    """Also where nobody has set up logging before, as in a new process."""

    def train(args):
        for level in (logging.WARNING, logging.WARNING, logging.INFO, logging.INFO):
            logging.getLogger("ldm_jax.data").log(level, "photos: %s", logging.getLevelName(level))
        return 0

    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(cli.importlib, "import_module", lambda name: SimpleNamespace(train=train))
    assert cli.run("train", []) == 0
    assert capsys.readouterr().err == "photos: WARNING\nphotos: INFO\nphotos: INFO\n"
