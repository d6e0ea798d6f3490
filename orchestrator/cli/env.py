"""`assistantd env`: how a client finds the running stack, for a shell's `eval`."""

import os
import sys

from orchestrator.cli.console import CommandError, DataOption, hint
from orchestrator.embedded.home import Home, State
from orchestrator.settings import given


def env(data: DataOption = None) -> None:
    """Print what a client needs to find the running server: eval "$(./assistantd env)".

    In a container it is the address that ASSISTANTD_PUBLIC_URL says, and the deployment's own key.
    """
    if public := os.environ.get("ASSISTANTD_PUBLIC_URL"):
        key = given("ASSISTANTD_API_KEY")
        if key is None:
            raise CommandError("ASSISTANTD_API_KEY is not set, so only whoever made a key knows one.")
        deployed = State(0, f"{public.rstrip('/')}/v1", key)
        sys.stdout.write(deployed.exports() + "\n")
        return
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
