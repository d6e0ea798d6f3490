"""The interval that pollers are asked for."""

import pytest

from api.polling import HEADER, poll_after
from orchestrator.settings import Settings


@pytest.mark.parametrize(
    ("age", "milliseconds"), [(0, "200"), (1, "200"), (4, "400"), (9.5, "950"), (60, "1000"), (-3, "200")]
)
def test_it_grows_with_what_has_been_waited_within_bounds(
    monkeypatch: pytest.MonkeyPatch, age: float, milliseconds: str
) -> None:
    monkeypatch.setattr("time.time", lambda: 1000.0 + age)
    settings = Settings.model_validate({"DATABASE_URL": "postgresql://x", "REDIS_URL": "redis://x"})

    assert poll_after(1000, settings) == {HEADER: milliseconds}


def test_a_lower_bound_above_the_upper_one_counts() -> None:
    given = {"DATABASE_URL": "postgresql://x", "REDIS_URL": "redis://x", "poll_shortest": 3}

    assert poll_after(0, Settings.model_validate(given)) == {HEADER: "3000"}
