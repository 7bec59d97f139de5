"""Runs a command, and fails if it needs more memory than it may.

    peak.py MIB COMMAND [ARGUMENTS]
"""

import resource
import subprocess
import sys

limit = int(sys.argv[1])
code = subprocess.run(sys.argv[2:]).returncode
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
print(f"peak memory {peak:.0f} MiB, at most {limit} MiB allowed")
sys.exit(code or peak > limit)
