"""The REST door: validate, authenticate, call a verb, render."""
