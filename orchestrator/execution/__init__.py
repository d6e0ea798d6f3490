"""Carrying a run: the loop decides what is next, the journal writes it down, the conversation is what models read."""
