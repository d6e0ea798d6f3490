"""One module a noun; each route calls one verb of the orchestrator."""
