"""`assistantd doctor`: looks at every part and says what to do about each that does not work."""

import asyncio
from collections.abc import Iterator

import typer
from rich.status import Status
from rich.text import Text

from orchestrator.cli.console import DataOption, err, hint, out, say
from orchestrator.cli.findings import Check, Finding, Patient, Verdict, failed
from orchestrator.embedded.home import Home
from orchestrator.settings import given

MARKS: dict[Verdict, tuple[str, str]] = {
    "ok": ("✓", "bold green"),
    "failed": ("✗", "bold red"),
    "skipped": ("–", "dim"),
}
REPLACING = ("DATABASE_URL", "REDIS_URL", "UPSTREAM_BASE_URL")
WIDTH = 11  # columns for the names of checks


def doctor(data: DataOption = None) -> None:
    """Check every part and say what to do about each failure. Exit code 1 if anything failed."""
    from orchestrator.cli import doctor_machine, doctor_services

    home = Home(data)
    state = home.running()
    environment = given
    patient = Patient(
        home,
        hint("up", data),
        api_url=state.base_url if state else "",
        database_url=environment("DATABASE_URL") or (state.database_url if state else ""),
        redis_url=environment("REDIS_URL") or (state.redis_url if state else ""),
        upstream_url=environment("UPSTREAM_BASE_URL") or (state.upstream_base_url if state else ""),
        upstream_key=environment("UPSTREAM_API_KEY") or "none",
        storage_url=environment("ASSISTANTD_STORAGE_URL") or (home.files.as_uri() if state else ""),
        given=frozenset(name for name in REPLACING if environment(name)),
    )
    bad = sum(
        finding.verdict == "failed" for finding in _examine(patient, doctor_machine.CHECKS | doctor_services.CHECKS)
    )
    out.print()
    if bad:
        out.print(Text(f"{bad} problem{'s' if bad > 1 else ''} found.", "bold red"))
        raise typer.Exit(1)
    out.print(
        Text(
            "No problems found." if state else f"No problems found. Nothing runs yet; start with: {patient.start}",
            "bold green",
        )
    )


def _examine(patient: Patient, checks: dict[str, Check]) -> Iterator[Finding]:
    for name, check in checks.items():
        with Status(f"[dim]checking {name}[/]", console=err):
            finding = _safely(check, patient)
        mark, style = MARKS[finding.verdict]
        text = Text(finding.text, "dim" if finding.verdict == "skipped" else "")
        say(out, Text.assemble((f"{mark} ", style), f"{name:<{WIDTH}}"), text)
        if finding.advice:
            say(out, Text(f"{'':{WIDTH + 2}}→ ", "yellow"), Text(finding.advice, "yellow"))
        yield finding


def _safely(check: Check, patient: Patient) -> Finding:
    """A check that breaks is a finding too: the rest must still be looked at."""
    try:
        return check(patient)
    except (Exception, asyncio.CancelledError) as error:  # a doctor who faints helps nobody
        return failed(f"{type(error).__name__}: {error}", "This check itself broke. Please report it with this line.")
