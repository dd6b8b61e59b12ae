"""What every command has in common: what becomes of errors and signals, and which exit code each has.

0    done
1    the machine ran out of memory or space, or a bug (with its traceback)
2    the input was wrong
3    stopped by a signal after saving; the same command resumes
4    training diverged; the last good checkpoint is kept
130  interrupted (Ctrl-C) before there was anything to save
141  whoever read the output closed it (`| head`) before the end; nothing is said (0 where it was --help)
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from ldm_jax.errors import SAVED, Diverged, InputError, Stopped

DONE, FAILED, WRONG_INPUT, STOPPED, DIVERGED, INTERRUPTED, CLOSED_PIPE = 0, 1, 2, 3, 4, 130, 141

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
MACHINE = (*NO_SPACE, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE, errno.ENFILE)
"""Errors of files and disks that are no bug: one line says enough."""
ECHOES = ("absl", "asyncio", "concurrent.futures")
"""Loggers that show, with its traceback, each of the many failures in the background that end in one that is raised."""
PACKAGES = {"sklearn": "scikit-learn", "PIL": "pillow", "orbax": "orbax-checkpoint"}
"""What pip calls a package that is imported by another name."""


def guarded(name: str, action: Callable[[], int], debug: bool = False, closed: int = CLOSED_PIPE) -> int:
    """Runs a command and gives its exit code; whatever isn't a bug ends in one line on stderr.

    debug: the traceback comes before that line. closed: the exit code where nobody reads the output any more.
    """
    try:
        with _once():
            try:
                code = action()
            except SystemExit:
                # --help and --version end so; what they printed must be out before the code is given.
                sys.stdout.flush()
                raise
            sys.stdout.flush()
            return code
    except BrokenPipeError:
        _quiet()
        return closed
    except (Exception, KeyboardInterrupt) as error:
        code, line = outcome(error)
        if line is None:
            raise
        if debug:
            traceback.print_exc()
        try:
            print(f"{name}: {line}", file=sys.stderr)
        except BrokenPipeError:
            _quiet()
        return code


def outcome(error: BaseException) -> tuple[int, str | None]:
    """The exit code of an error and what is said about it; None: it is a bug, whose traceback is needed."""
    told = " ".join(str(error).split())
    if isinstance(error, InputError):
        return WRONG_INPUT, f"error: {told}"
    if isinstance(error, Stopped):
        return STOPPED, told
    if isinstance(error, Diverged):
        return DIVERGED, f"error: {told}"
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, f"interrupted; {told}" if told else "interrupted"
    causes = list(_causes(error))
    lines = [line for cause in causes if (line := _lack(cause)) is not None]
    if not lines:
        return FAILED, None
    saved = [note for cause in causes for note in getattr(cause, "__notes__", ()) if note.startswith(SAVED)]
    return FAILED, "; ".join([f"error: {lines[0]}", *saved[:1]])


def _lack(error: BaseException) -> str | None:
    """What the machine lacks, where that is what an error says."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno in MACHINE:
        place = f": {error.filename}" if error.filename else ""
        return f"{error.strerror}{place}"
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.split(".")[0] != "ldm_jax":
        package = error.name.split(".")[0]
        return f"the package {package} is not installed; pip install {PACKAGES.get(package, package)}"
    if isinstance(error, MemoryError):
        return f"out of memory{f' ({text})' if text else ''}; a smaller batch size needs less"
    if "No space left on device" in text:
        return "No space left on device"
    if "RESOURCE_EXHAUSTED" in text:
        return f"out of memory ({text[:200]}); a smaller batch size needs less"
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that led to it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        if isinstance(error, BaseExceptionGroup):
            yield from error.exceptions
        error = error.__cause__ or error.__context__


def without_echoes() -> None:
    """From now on nothing repeats what is raised anyway: loggers say no more than warnings, closed loops nothing."""
    for name in ECHOES:
        logging.getLogger(name).addFilter(_no_error)
    # Here, for JAX loads asyncio anyway, and --help needs neither.
    from ldm_jax.cli.loops import deaf_after_their_end

    deaf_after_their_end()


def _no_error(record: logging.LogRecord) -> bool:
    return record.levelno < logging.ERROR


def _quiet() -> None:
    """Nobody reads any more: what is still buffered goes nowhere, instead of to a complaint when Python ends."""
    # A stdout that is no file, as in a notebook, is left as it is.
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _NotAgain(logging.Filter):
    """Lets a warning pass once."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        message = record.getMessage()
        new = message not in self._seen
        self._seen.add(message)
        return new


@contextmanager
def _once() -> Iterator[None]:
    """Within one command nobody is warned of the same twice, such as of a folder's broken files for each split."""
    # One filter a handler: a filter that all share would show a message to the first of them alone.
    filters = [(handler, _NotAgain()) for handler in logging.getLogger().handlers]
    for handler, once in filters:
        handler.addFilter(once)
    try:
        yield
    finally:
        for handler, once in filters:
            handler.removeFilter(once)
