"""torch's launcher, started so that it and the processes of a training end with the process that asked for them."""

import os
import sys
from pathlib import Path

from torch.distributed import run

from worker.child import end_with_parent

PARTNER = "worker.partner"
"""What each of the processes runs."""


def main() -> None:
    """Start as many processes as the command line says, on this machine alone, and wait for them.

    Its second argument is the file of a `worker.partner.Shared`, beside which the launcher's own files lie, and the
    third the number of the process that asks.
    """
    processes, shared, parent = sys.argv[1:]
    end_with_parent(int(parent))
    logs = str(Path(shared).with_name("launcher"))
    how_many = ["--standalone", "--nproc-per-node", processes, "--log-dir", logs]
    run.main([*how_many, "-m", PARTNER, shared, str(os.getpid())])


if __name__ == "__main__":
    main()
