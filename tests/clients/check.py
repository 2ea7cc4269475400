"""Each check says what it is about once it holds; the first that does not ends the program."""


def ok(what, holds):
    if not holds:
        raise SystemExit(f"FAILED {what}")
    print(f"ok {what}", flush=True)
