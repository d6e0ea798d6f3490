"""Postgres, Valkey and a small language model, run from wheels under one supervisor."""
