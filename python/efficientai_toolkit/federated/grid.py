"""Flower's grid within this process: its strategies and client apps run as they are, without servers.

The only file that knows private parts of Flower: who a message is from, and its number.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import count
from typing import Any

from efficientai_toolkit.federated import flower

try:
    flower.silence()
    from flwr.app import Context, Error, Message, RecordDict
    from flwr.common.constant import ErrorCode
    from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
    from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict
    from flwr.serverapp import Grid
    from flwr.supercore.run import Run
    from flwr.supercore.task_identity import TaskIdentity
except ImportError as error:
    raise flower.missing(error) from error

SERVER = 1
"""Node of the server; clients follow."""
_RUN = 1

ClientFunction = Callable[[Message, Context], Message]
"""A ``flwr.clientapp.ClientApp``, or a function like one."""


def node_of(client: int) -> int:
    """Return the identifier of the node of a client, which are counted from 0."""
    return SERVER + 1 + client


class LocalGrid(Grid):
    """Nodes within this process.

    A client works when its reply is pulled, one after the other, so that one update is in memory at a time;
    an exception in it becomes an error reply, as with Flower's nodes.

    Parameters
    ----------
    app
        Client app, or a function like one.
    clients
        Number of nodes; their identifiers are those of :func:`node_of`.
    node_config
        Further settings of all nodes beside ``partition-id`` and ``num-partitions``.
    run_config
        Settings of the run that clients see.
    """

    def __init__(
        self,
        app: ClientFunction,
        clients: int,
        *,
        node_config: dict[str, Any] | None = None,
        run_config: dict[str, Any] | None = None,
    ) -> None:
        # Messages carry who made them; in this process it is the server.
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = _RUN, 0, SERVER
        self._app = app
        self._numbers = count(1)
        self._waiting: dict[str, Message] = {}
        self._run = Run.create_empty(_RUN)
        self.contexts = {
            node_of(client): Context(
                run_id=_RUN,
                node_id=node_of(client),
                node_config={"partition-id": client, "num-partitions": clients, **(node_config or {})},
                state=RecordDict(),
                run_config=run_config or {},
            )
            for client in range(clients)
        }
        """Contexts by node; their ``state`` is what clients remember."""

    def set_run(self, run: Run) -> None:
        """Set the run."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Return a message from the server."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return all nodes."""
        return list(self.contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Keep messages until their replies are pulled."""
        return [self._push(message) for message in messages]

    def _push(self, message: Message) -> str:
        name = self._number(message)
        self._waiting[name] = message
        return name

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        """Let the clients answer, one after the other."""
        for name in list(message_ids):
            if (message := self._waiting.pop(name, None)) is not None:
                yield self._answer(message)

    def send_and_receive(
        self,
        messages: Iterable[Message],
        *,
        timeout: float | None = None,  # noqa: ARG002
    ) -> Iterable[Message]:
        """Send messages and return the replies; nothing is waited for."""
        return list(self.pull_messages(self.push_messages(messages)))

    def _answer(self, message: Message) -> Message:
        context = self.contexts.get(message.metadata.dst_node_id)
        if context is None:
            reply = Message(Error(ErrorCode.NODE_UNAVAILABLE, "there is no such node"), reply_to=message)
        else:
            try:
                reply = self._app(message, context)
            except Exception as error:  # noqa: BLE001
                # A client's failure is not the server's.
                reason = f"{type(error).__name__}: {error}"
                reply = Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)
        self._number(reply)
        return reply

    def _number(self, message: Message) -> str:
        name = str(next(self._numbers))
        vars(message.metadata)["_message_id"] = name
        return name

    def export_states(self) -> dict[int, bytes]:
        """Return what clients remember, by node; nodes without memory are left out."""
        return {
            node: recorddict_to_proto(context.state).SerializeToString()
            for node, context in self.contexts.items()
            if context.state
        }

    def restore_states(self, states: dict[int, bytes]) -> None:
        """Give clients the memory of :meth:`export_states` back."""
        for node, text in states.items():
            self.contexts[node].state = recorddict_from_proto(ProtoRecordDict.FromString(text))
