"""What of flwr 1.41 is used beyond its public names, all of it in one place.

`tests/test_flower_app.py` fails when one of these changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from flwr.app import Error, Message, Metadata
from flwr.app.message import make_message, remove_content_from_message
from flwr.common.config import get_fused_config_from_dir, get_project_config, parse_config_args
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL, HEARTBEAT_PATIENCE, SUPERLINK_NODE_ID, ErrorCode
from flwr.common.serde import message_from_proto, message_to_proto, recorddict_from_proto, recorddict_to_proto
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import strategy_utils
from flwr.supercore.object_ref import load_app
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

__all__ = ["HEARTBEAT", "SLEEPERS", "SUPERLINK_NODE_ID", "ErrorCode", "Run", "acting", "call_it",
           "get_fused_config_from_dir", "get_project_config", "load_app", "message_from_proto", "message_to_proto",
           "of_old", "parse_config_args", "recorddict_from_proto", "recorddict_to_proto", "remove_content_from_message",
           "said_by_superlink", "unavailable"]  # fmt: skip

HEARTBEAT = HEARTBEAT_DEFAULT_INTERVAL * HEARTBEAT_PATIENCE
"""Seconds without a word from a node after which a SuperLink takes it for gone."""

REASONS = {
    ErrorCode.MESSAGE_UNAVAILABLE: "the message is unknown, or its time to live is over",
    ErrorCode.NODE_UNAVAILABLE: "the node has not been heard of for too long",
    ErrorCode.CLIENT_APP_CRASHED: "the ClientApp stopped responding",
}
"""What is said of errors that no app has raised."""

SLEEPERS = [strategy_utils]
"""Modules that have taken `sleep` out of `time`: `sample_nodes` waits so for nodes."""


@contextmanager
def acting(run_id: int) -> Iterator[None]:
    """Who makes messages meanwhile is the ServerApp of this run: `Message()` asks a global."""
    names = ("_run_id", "_node_id", "_task_id")
    before = {name: getattr(TaskIdentity, name) for name in names}
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, SUPERLINK_NODE_ID, 0
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(TaskIdentity, name, value)


def call_it(message: Message, name: str) -> None:
    """Give a message its id, as whoever takes it in does."""
    message.metadata.__dict__["_message_id"] = name


def of_old(app: ServerApp) -> bool:
    """Whether it has a `server_fn` in place of a main function: a thread for each client then waits for one reply."""
    return app._main is None


def unavailable(code: int) -> Error:
    """An error that no app has raised."""
    return Error(code, REASONS[code])


def said_by_superlink(run_id: int, asked: str, code: int, created_at: float) -> Message:
    """The SuperLink's own answer to whoever asks for the reply to a message (by its id) that will not come."""
    metadata = Metadata(
        run_id=run_id, message_id="", src_node_id=SUPERLINK_NODE_ID, dst_node_id=SUPERLINK_NODE_ID,
        reply_to_message_id=asked, group_id="", created_at=created_at, ttl=0, message_type="system",
    )  # fmt: skip
    return make_message(metadata=metadata, error=unavailable(code))
