"""Flower's Grid in virtual time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedsim.clock import DEADLINE
from fedsim.errors import RunFailed, Stalled
from fedsim.flower import told
from fedsim.flower.internals import Run
from fedsim.flower.superlink import SuperLink
from fedsim.units import SECOND, written_duration
from fedsim.work import Measured

POLL = SECOND // 100
"""Microseconds that a look for replies takes at most where there are none; 12 to 15 ms were measured over HTTP."""


class VirtualGrid(Grid):
    """What a ServerApp sends through and receives from. Virtual time passes while it waits, and at no other time.

    So what a ServerApp computes takes no time. It waits in `send_and_receive`, in `time.sleep`, and for at most 10 ms
    in a `pull_messages` that finds nothing. Replies come in the order of their messages.
    """

    def __init__(self, link: SuperLink):
        self.link, self.clock = link, link.clock
        self.failure: RunFailed | None = None
        """What has ended the run, even if the app lives on."""
        self._thread = threading.get_ident()
        self.params = Measured()
        """What replies have told last, each metric by its name; and each client, if some have evaluated just now."""
        self._pass(0, lambda: False)
        link.progress.row(self, 0)

    # Flower's words -------------------------------------------------------------------------------------------------

    def set_run(self, run: Run) -> None:
        """There is but one run."""

    @property
    def run(self) -> Run:
        """Its id is all that is known of it."""
        return Run.create_empty(self.link.run_id)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """The same as `Message`."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """Who is online as far as a SuperLink knows; in the order of the fleet."""
        self._pass(0, lambda: False)
        return [name for name, node in self.link.nodes.items() if node.online]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send them off; their ids, an empty one where there is no such node."""
        self._pass(0, lambda: False)
        return self.link.post(list(messages))

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """The replies that are there, each once."""
        names = list(message_ids)
        self._pass(POLL, lambda: any(map(self.link.answered, names)))
        return self._collect(names)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Send messages off and wait for the replies to all, or for so many virtual seconds."""
        names = self.push_messages(messages)
        patience = self.link.terms.limit if timeout is None else round(timeout * SECOND)
        awaited = list(names)

        def done() -> bool:
            while awaited and self.link.answered(awaited[-1]):
                awaited.pop()
            return not awaited

        self._pass(patience, done)
        return self._collect([name for name in names if self.link.answered(name)])

    # Time -----------------------------------------------------------------------------------------------------------

    @property
    def now(self) -> int:
        """Microseconds of virtual time."""
        return self.clock.now

    def sleep(self, ticks: int) -> None:
        """Let so many microseconds pass."""
        self._pass(ticks, lambda: False)

    def _pass(self, ticks: int, done: Callable[[], bool]) -> None:
        """Let time pass until something is so, but no longer than this; and what happens at that instant with it.

        RunFailed if the run has failed, or its limit is reached.
        """
        if threading.get_ident() != self._thread:
            raise RunFailed("the ServerApp uses its Grid from several threads, so whose turn it is would be luck")
        try:
            if self.failure is None:
                self._step(min(self.clock.now + ticks, self.link.terms.limit), done)
        except RunFailed as error:
            self.failure = error
        if self.failure is not None:
            raise self.failure

    def _step(self, end: int, done: Callable[[], bool]) -> None:
        while self.clock.peek() <= (self.clock.now if done() else end):
            self.clock.step()
        if not done() and end > self.clock.now:
            self.clock.call(end - self.clock.now, DEADLINE, lambda: None)
            self.clock.step()
        if self.clock.now >= self.link.terms.limit:
            limit = written_duration(self.link.terms.limit)
            raise Stalled(f"after virtual time {limit} the app is not over: {self._state()}; see app.limit")

    def _state(self) -> str:
        online = sum(node.online for node in self.link.nodes.values())
        return f"{online} of {len(self.link.nodes)} nodes are online, {len(self.link.errands)} messages under way"

    # What is told ---------------------------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        """Of the last new model that was sent."""
        return self.link.version

    def _collect(self, names: list[str]) -> list[Message]:
        """Hand replies out, and write down what they tell: a row of the run's metrics."""
        replies, terms = self.link.collect(names), self.link.terms
        if replies:
            table = told.table(replies, lambda name: self.link.nodes[name].number, terms)
            self.params = Measured({**self.params.metrics, **told.means(replies, terms)}, table)
            self.link.progress.row(self, self.now)
        return replies
