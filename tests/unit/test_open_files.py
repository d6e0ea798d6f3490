"""The limit of open files, in a process of its own."""

import subprocess
import sys

SCRIPT = """
import resource
from orchestrator.open_files import PLENTY, allow_many
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
most = PLENTY if hard == resource.RLIM_INFINITY else min(hard, PLENTY)
assert allow_many() == allow_many() == most == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
"""


def test_a_process_gets_as_many_open_files_as_the_system_lets_it() -> None:
    subprocess.run([sys.executable, "-c", SCRIPT], check=True, timeout=30)
