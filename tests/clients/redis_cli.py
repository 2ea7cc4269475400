"""redis-cli, as it is typed."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time

from check import ok

PORT = sys.argv[1]


def cli(*arguments, text=None):
    command = ["redis-cli", "-p", PORT, *arguments]
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr


def typed(keys):
    """What an interactive session shows after these keys, without colours."""
    child, terminal = pty.fork()
    if child == 0:
        os.environ["TERM"] = "xterm"
        os.execvp("redis-cli", ["redis-cli", "-p", PORT])
    # Of unknown size it would ask the terminal, and take what is typed for the answer.
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 250, 0, 0))
    shown = b""
    for key in [None, *keys]:
        if key is not None:
            os.write(terminal, key.encode())
        end = time.time() + 1
        while time.time() < end and select.select([terminal], [], [], 0.2)[0]:
            shown += os.read(terminal, 65536)
    os.write(terminal, b"\x03")
    os.close(terminal)
    os.waitpid(child, 0)
    return re.sub(rb"\x1b\[[0-9;]*[A-Za-z]", b"", shown).decode(errors="replace")


ok("SET and GET", cli("SET", "ville", "Orléans") == "OK\n" and cli("GET", "ville").strip() == "Orléans")
ok("-n 3", cli("-n", "3", "SET", "a", "3") == "OK\n" and cli("GET", "a").strip() == "")
ok("-3", "server" in cli("-3", "HELLO") and cli("-3", "GET", "none").strip() == "")
ok("--json", cli("--json", "MGET", "ville", "none").strip() == '["Orléans",null]')
hints = typed("INCREX x ")
ok("hints while one types, from COMMAND DOCS", "BYINT integer" in hints)
ok("help", "Removes keys and tells how many there were." in cli(text="help del\n"))
lines = "".join(f"SET k:{number} value\r\n" for number in range(10_000))
loaded = cli("--pipe", text=lines)
ok("--pipe", "errors: 0, replies: 10000" in loaded)
ok("--scan", len(cli("--scan", "--pattern", "k:*").split()) == 10_000)
ok("--bigkeys", "10001 strings with" in cli("--bigkeys"))
ok("--memkeys", "10001 strings with" in cli("--memkeys"))
stat = subprocess.run(["timeout", "2", "stdbuf", "-oL", "redis-cli", "-p", PORT, "--stat"], capture_output=True, text=True)
ok("--stat", "10002" in stat.stdout)
ok("--latency", re.search(r"^\d+ [\d.]+ [\d.]+ \d+$", cli("--latency", "--raw", "-i", "1").strip(), re.M))
ok("transactions", cli(text="MULTI\nINCR n\nINCR n\nEXEC\n").split()[-2:] == ["1", "2"])
