"""Commands whose help does not call `--help` a <bool>, as typer's does: that word helps nobody."""

from typing import Any

from typer.core import TyperCommand, TyperGroup, TyperOption
from typing_extensions import override


class Command(TyperCommand):
    """A command."""

    @override
    def get_help_option(self, ctx: Any) -> TyperOption | None:
        """The option --help, without a type."""
        return _untyped(super().get_help_option(ctx))


class Group(TyperGroup):
    """A command with sub-commands."""

    @override
    def get_help_option(self, ctx: Any) -> TyperOption | None:
        """The option --help, without a type."""
        return _untyped(super().get_help_option(ctx))


def _untyped(option: TyperOption | None) -> TyperOption | None:
    if option is not None:
        option.metavar = ""
    return option
