"""An error that is the input's fault, kept as a result: the same input would be refused again."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import msgspec

from tauten.errors import InputError, MediaError

_OF_ELSEWHERE = frozenset({"E203"})  # a file that is not there, or cannot be read: it may be, later


class Refused(msgspec.Struct, frozen=True):
    """What an InputError or a MediaError said."""

    media: bool
    message: str
    help: str
    code: str
    where: str

    @classmethod
    def of(cls, error: BaseException) -> Refused | None:
        """None for every other error: of our own faults, and of what is merely not there, nothing is kept."""
        if error.__class__ not in (InputError, MediaError):
            return None
        assert isinstance(error, InputError)  # both are
        if error.code in _OF_ELSEWHERE:
            return None
        return cls(isinstance(error, MediaError), error.message, error.help, error.code, error.where)

    def error(self) -> InputError:
        """The error, as it was raised first."""
        kind = MediaError if self.media else InputError
        return kind(self.message, help=self.help, code=self.code, where=self.where)
