"""What is heard of a run: frames are built once, appended to a Redis stream, and relayed to whoever listens."""
