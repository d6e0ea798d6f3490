"""The name for data that comes from outside and has no type yet.

`Any` appears under this name only, where foreign data enters (model replies, tool arguments, JSON columns); the code
that takes it turns it into a type or passes it on untouched.
"""

from typing import Any, TypeAlias

Json: TypeAlias = Any
