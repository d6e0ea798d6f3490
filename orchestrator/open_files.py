"""Room for connections: a run at work holds one, a listener another, and a normal user has 1,024 by default."""

import resource

PLENTY = 65_536


def allow_many() -> int:
    """Raise this process' limit of open files as far as the system lets it, at most to `PLENTY`; returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = PLENTY if hard == resource.RLIM_INFINITY else min(hard, PLENTY)
    if soft == resource.RLIM_INFINITY or soft >= most:
        return soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most
