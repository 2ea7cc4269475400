"""redis-benchmark: every test that needs strings only."""

import subprocess
import sys

from check import ok

for options in ["", "-P 16", "-3", "-r 1000 -d 100"]:
    command = f"redis-benchmark -p {sys.argv[1]} -t ping,set,get,incr,mset -n 2000 -q {options}"
    done = subprocess.run(command.split(), capture_output=True, text=True, timeout=120)
    shown = done.stdout + done.stderr
    whole = done.returncode == 0 and shown.count("requests per second") == 6
    ok(f"-t ping,set,get,incr,mset {options}".strip(), whole and "rror" not in shown and "WARNING" not in shown)
