"""The official clients in other releases than the one we depend on: lock files, and conversations to hold with them."""
