"""`assistantd env`: how a client finds the running stack, for a shell's `eval`."""

import sys

from orchestrator.cli.console import CommandError, DataOption, hint
from orchestrator.embedded.home import Home, State


def env(data: DataOption = None) -> None:
    """Print what a client needs to find the running server: eval "$(./assistantd env)"."""
    sys.stdout.write(ready_state(Home(data), data_given=data is not None).exports() + "\n")


def ready_state(home: Home, *, data_given: bool = False) -> State:
    """The stack that serves on this folder. Raises CommandError when there is none."""
    data = home.root if data_given else None
    state = home.running()
    if state is None:
        raise CommandError(f"No assistantd is running on {home.root}. Start one with: {hint('up', data)}")
    if state.phase != "ready":
        raise CommandError(
            f"The assistantd on {home.root} (process {state.pid}) is still starting. Try again in a moment."
        )
    return state
