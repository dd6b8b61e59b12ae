"""Event loops that hear nothing after their end."""

import asyncio
import sys
from typing import Any


class _Loop(asyncio.SelectorEventLoop):
    """Of a save that failed, TensorStore reports each other write to the loop that waited for it, and shows a traceback
    where that is closed."""

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:
        try:
            return super().call_soon_threadsafe(callback, *args, context=context)
        except RuntimeError:
            if not self.is_closed():
                raise
            return asyncio.Handle(callback, args, self, context)


def deaf_after_their_end() -> None:
    """From now on all loops of this process are such, those of `asyncio.run` in Orbax's threads among them."""
    # Python 3.14 has deprecated policies without another way to choose those.
    if sys.version_info < (3, 14):

        class Policy(asyncio.DefaultEventLoopPolicy):
            def new_event_loop(self) -> asyncio.AbstractEventLoop:
                return _Loop()

        asyncio.set_event_loop_policy(Policy())
