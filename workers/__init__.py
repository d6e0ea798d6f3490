"""The Celery door: tasks that call the orchestrator."""
