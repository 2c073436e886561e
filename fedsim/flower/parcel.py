"""Flower's messages as they travel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flwr.app import Message, RecordDict

from fedsim.flower.internals import (
    message_from_proto,
    message_to_proto,
    recorddict_from_proto,
    recorddict_to_proto,
    remove_content_from_message,
)


@dataclass(frozen=True, eq=False)
class Parcel:
    """A message as protobuf: what an app does to its records afterwards does not change what travels."""

    shell: Any
    """Its metadata, and perhaps its error."""
    content: Any
    """Its records, which messages to many nodes may share; None: it is an error."""

    @classmethod
    def of(cls, message: Message) -> Parcel:
        """With a copy of the records."""
        shell = message_to_proto(remove_content_from_message(message))
        return cls(shell, recorddict_to_proto(message.content) if message.has_content() else None)

    def addressed(self, message: Message) -> Parcel:
        """Another message with the same records."""
        return Parcel(message_to_proto(remove_content_from_message(message)), self.content)

    @property
    def nbytes(self) -> int:
        """How many bytes it is long, its arrays included."""
        return self.shell.ByteSize() + (0 if self.content is None else self.content.ByteSize())

    @property
    def kind(self) -> str:
        """What is asked: `train`, `evaluate` or `query`."""
        return self.shell.metadata.message_type.partition(".")[0]

    def opened(self) -> Message:
        """A message of the reader's own."""
        message = message_from_proto(self.shell)
        if self.content is not None:
            message.content = self.records()
        return message

    def records(self) -> RecordDict:
        """A copy of what it holds."""
        return recorddict_from_proto(self.content)
