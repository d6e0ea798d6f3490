"""A worker of the product that knows one task, which does nothing: started as a file by `bench.celery_costs`."""

from celery.bin.celery import celery

from workers.app import app
from workers.tasks import async_task

NAME = "bench.empty"
COMMAND = ("-q", "-A", "workers.app", "worker", "-n", "empty@bench", "--loglevel", "info")
ALONE = ("--without-gossip", "--without-mingle", "--without-heartbeat")


@async_task(app, name=NAME)
async def empty(run_id: str, attempt: int | None = None) -> None:
    """Nothing, with the arguments of the task that carries a run."""


def main() -> None:
    """Work, without the tasks of the product and all that they would open."""
    app.conf.update(include=[])
    celery([*COMMAND, *ALONE])


if __name__ == "__main__":
    main()
