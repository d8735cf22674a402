"""Who left: a request's client, told to those who work for it."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections.abc import Callable

LEAVING = "tauten.disconnect"  # in a scope's extensions


class Departure:
    """Tells, from the event loop, that the client has left; ``scope["extensions"][LEAVING]``."""

    # Class attributes hold the start of what most requests never touch: an instance then costs half as much.
    gone = False
    _callbacks: list[Callable[[], object]] | None = None

    def add_callback(self, callback: Callable[[], object]) -> None:
        """Call back once, when the client leaves before its answer is whole; soon, when it has left already.

        Who watches decides what stops: the server then leaves the app's task alone.
        """
        if self._callbacks is None:
            self._callbacks = []
        self._callbacks.append(callback)
        if self.gone:
            asyncio.get_running_loop().call_soon(self._tell)

    def remove_callback(self, callback: Callable[[], object]) -> None:
        """Forget a callback; one that is not there is no error."""
        if self._callbacks and callback in self._callbacks:
            self._callbacks.remove(callback)

    @property
    def watched(self) -> bool:
        """Whether anybody ever asked to be told."""
        return self._callbacks is not None

    def _tell(self) -> None:
        """Each callback once; one that raises goes to the loop's handler and stops no other."""
        callbacks, self._callbacks = self._callbacks or [], [] if self.watched else None
        for callback in callbacks:
            try:
                callback()
            except Exception as error:  # noqa: BLE001  # a watcher's mistake is not the connection's
                context = {"message": "a disconnect callback raised", "exception": error}
                asyncio.get_running_loop().call_exception_handler(context)
