"""What each node of a target was built from, in the state store: `node_states.json`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

if TYPE_CHECKING:
    from prefect_flows.core.files import Warn
    from prefect_flows.state.target_state import TargetState

NODE_STATES = "node_states.json"


class NodeState(BaseModel):
    """The last execution of a node.

    Attributes:
        status: dbt's status; None while a run executes the node, and after that run was killed.
        run: id of that run, which is also the version of the node's rows.
        ended_at: when it ended, UTC.
        code: hash of the node with that of its parents.
        own_code: hash of the node alone.
        inputs: id of each node and source that it reads → version of the rows that it read; None if
            that version is not known.
        relation: state of its relation in the warehouse when the run ended; None if not known.
        always: why its result may change although code and inputs do not; None if nothing says so.
        seconds: execution time.
        bytes: bytes that its statement processed, if known.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    status: str | None
    run: str
    ended_at: datetime | None = None
    code: str = ""
    own_code: str = ""
    inputs: dict[str, str | None] = Field(default_factory=dict)
    relation: str | None = None
    always: str | None = None
    seconds: float = 0.0
    bytes: int | None = None


_STATES = TypeAdapter(dict[str, NodeState])


def load_node_states(state: TargetState, warn: Warn) -> dict[str, NodeState]:
    """Load node id → state; empty before the first run, and if the file is corrupt.

    Raises:
        StateStoreError: the store cannot be read.
    """
    return state.store.load(f"{state.folder}/{NODE_STATES}", _STATES, warn) or {}


def save_node_states(state: TargetState, states: Mapping[str, NodeState]) -> None:
    """Save node id → state.

    Raises:
        StateStoreError: the store cannot be written.
    """
    state.write(NODE_STATES, _STATES.dump_json(dict(states), exclude_defaults=True))
