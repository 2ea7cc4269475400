"""redis-py's own lock, which sends Lua: threads that fight for it, its time, and its scripts registered by name."""

import sys
import threading
import time

import redis
from redis.exceptions import LockError, LockNotOwnedError

from check import ok

client = redis.Redis(port=int(sys.argv[1]), decode_responses=True)
client.flushall()

inside, most, done = 0, 0, 0


def work():
    global inside, most, done
    for _ in range(20):
        with client.lock("lock", timeout=30):
            inside += 1
            most = max(most, inside)
            time.sleep(0.0005)
            inside -= 1
            done += 1


threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
ok("eight threads take turns", most == 1 and done == 160)
lock = client.lock("lock", timeout=30)
ok("acquire, and not twice", lock.acquire() and not client.lock("lock").acquire(blocking=False))
lock.extend(100)
ok("extend", 120 < client.ttl("lock") <= 130)
lock.reacquire()
ok("reacquire", client.ttl("lock") <= 30)
lock.release()
ok("release", client.exists("lock") == 0)
late = client.lock("late", timeout=0.05)
late.acquire()
time.sleep(0.1)
try:
    late.release()
    error = None
except LockNotOwnedError as caught:
    error = caught
ok("a lock whose time is over is not released", error is not None)
try:
    lock.release()
    error = None
except LockError as caught:
    error = caught
ok("nor one that is not held", error is not None)
add = client.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
ok("register_script", add(keys=["n"], args=[5]) == 5)
client.script_flush()
ok("a script that the server forgot is sent again", add(keys=["n"], args=[1]) == 6)
pipeline = client.pipeline()
add(keys=["n"], args=[1], client=pipeline)
pipeline.get("n")
ok("a script in a pipeline", pipeline.execute() == [7, "7"])
