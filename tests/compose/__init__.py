"""The deployment in containers, on a machine with a Docker engine: ASSISTANTD_COMPOSE=1 pytest tests/compose."""
