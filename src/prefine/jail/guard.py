"""The first lines of the program's own process (given to Python with -c): the "audit" layer, then the program.

An audit hook is a fence, not a wall: code that calls the C library goes around it. It gives programs a clear
error, and stands behind the kernel's layers, never in place of them.
"""

import os
import runpy
import sys
import traceback

OUT_OF_MEMORY = 86
REFUSED = (
    "socket.bind",
    "socket.connect",
    "socket.sendto",
    "socket.sendmsg",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "socket.gethostbyaddr",
)
PROCESSES = ("os.fork", "os.forkpty", "os.exec", "os.posix_spawn", "os.system", "subprocess.Popen", "pty.spawn")


def guard(alone: bool) -> None:
    """Refuse the network, and new processes where the program has to be alone."""
    refused = frozenset(REFUSED + (PROCESSES if alone else ()))

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in refused:
            raise PermissionError(f"{event} is not allowed in the sandbox")

    sys.addaudithook(hook)


def main() -> None:
    guard(alone=sys.argv[1] == "alone")
    sys.argv = ["program.py"]
    sys.path.append(os.getcwd())  # last: a file beside the program must not stand in for the library
    try:
        runpy.run_path("program.py", run_name="__main__")
    except MemoryError:
        traceback.print_exc()
        sys.exit(OUT_OF_MEMORY)


if __name__ == "__main__":
    main()
