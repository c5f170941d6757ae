"""What a program cannot do in the sandbox, whatever it tries; and what an honest one can.

Each attack is tried with every layer this machine can close, and again with layers left out, as in a container
that allows no namespaces: no single layer is what everything hangs on.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from prefine.errors import InputError
from prefine.sandbox import JAIL, Bounds, Outcome, run_python

NAMESPACES = ("own user namespace", "hostname", "ipc", "processes", "network", "files")
KERNEL = (*NAMESPACES, "landlock", "user", "limits", "process count", "seccomp")
MACHINES = {"everything": (), "container": NAMESPACES}


def probe(without: tuple[str, ...] = (), processes: int = 1) -> Outcome | None:
    with contextlib.suppress(InputError):
        return run_python("print('here')", bounds=Bounds(processes=processes), without=without)
    return None


@pytest.fixture(scope="module", autouse=True)
def able() -> None:
    if probe() is None:
        pytest.skip("this machine's kernel cannot close the sandbox, so nothing is run in it")


@pytest.fixture(scope="module", params=sorted(MACHINES))
def without(request: pytest.FixtureRequest) -> tuple[str, ...]:
    layers = MACHINES[request.param]
    if probe(layers) is None:
        pytest.skip(f"this machine's kernel closes nothing but what the test leaves out ({request.param})")
    return layers


def run(source: str, without: tuple[str, ...] = (), stdin: str = "", files: dict | None = None, **bounds) -> Outcome:
    settings = {"seconds": 20.0, "cpu_seconds": 10, **bounds}
    return run_python(textwrap.dedent(source), bounds=Bounds(**settings), stdin=stdin, files=files, without=without)


def running(name: str) -> list[int]:
    """Processes on this machine, in any namespace, that gave themselves this name."""
    found = []
    for comm in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            if comm.read_text().strip() == name:
                found.append(int(comm.parent.name))
    return found


NAMED = """
import ctypes, os, time
def name(text): ctypes.CDLL(None).prctl(15, text.encode(), 0, 0, 0)
"""


def ours(name: str) -> str:
    """A process name of this test process alone: tests beside this one count their own."""
    return f"{name}-{os.getpid()}"[-15:]


# --- honest programs


def test_a_program_runs_and_its_output_comes_back(without):
    outcome = run("import sys; print(6 * 7); print('careful', file=sys.stderr)", without)
    assert (outcome.ok, outcome.stdout, outcome.stderr) == (True, "42\n", "careful\n")
    assert (outcome.code, outcome.killed_by, outcome.truncated) == (0, None, False)


def test_the_standard_library_works(without):
    outcome = run(
        """
        import asyncio, collections, dataclasses, decimal, json, math, random, re, sqlite3, statistics, zoneinfo
        async def later(): return 7
        print(asyncio.run(later()), sqlite3.connect(":memory:").execute("select 1").fetchone())
        """,
        without,
    )
    assert outcome.stdout == "7 (1,)\n", outcome.stderr


def test_input_files_and_modules_beside_the_program(without):
    files = {"data/numbers.txt": "1 2 3", "helper.py": "def double(x): return 2 * x"}
    source = """
    import helper
    print(helper.double(sum(map(int, open("data/numbers.txt").read().split()))), input())
    open("notes.txt", "w").write("kept while it runs")
    print(open("notes.txt").read())
    """
    outcome = run(source, without, stdin="from stdin\n", files=files)
    assert outcome.stdout == "12 from stdin\nkept while it runs\n", outcome.stderr


def test_a_file_beside_the_program_does_not_stand_in_for_the_library(without):
    outcome = run("import json; print(json.dumps([1]))", without, files={"json.py": "dumps = lambda x: 'mine'"})
    assert outcome.stdout == "[1]\n"


def test_an_error_of_the_program_is_its_own_affair(without):
    outcome = run("raise ValueError('no')", without)
    assert (outcome.ok, outcome.code, outcome.killed_by) == (False, 1, None)
    assert outcome.stderr.endswith("ValueError: no\n")
    assert run("import sys; sys.exit(3)", without).code == 3
    assert "SyntaxError" in run("def", without).stderr
    assert run("import os; os.abort()", without).killed_by == "SIGABRT"


def test_text_of_every_kind_survives(without):
    assert run("print('naïve 数 \\U0001f600')", without).stdout == "naïve 数 \U0001f600\n"
    assert run("import os; os.write(1, b'\\xff\\n')", without).stdout == "\ufffd\n"


def test_without_input_there_is_none(without):
    assert run("import sys; print(repr(sys.stdin.read()))", without).stdout == "''\n"


def test_programs_side_by_side_keep_their_outputs_apart():
    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(lambda i: run(f"print({i})"), range(8)))
    assert [o.stdout for o in outcomes] == [f"{i}\n" for i in range(8)]


# --- time, memory, output, disk


def test_an_endless_loop_is_ended_by_its_cpu_time(without):
    outcome = run("while True: pass", without, cpu_seconds=1)
    assert (outcome.ok, outcome.killed_by, outcome.code) == (False, "cpu", None)


def test_a_program_that_ignores_the_warning_is_ended_as_well():
    source = "import signal; signal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"
    outcome = run(source, cpu_seconds=1)
    assert outcome.killed_by == "cpu"


def test_a_program_that_waits_is_ended_by_the_clock(without):
    started = time.monotonic()
    outcome = run("print('before', flush=True)\nimport time; time.sleep(100)", without, seconds=0.7)
    assert (outcome.ok, outcome.killed_by, outcome.stdout) == (False, "time", "before\n")
    assert time.monotonic() - started < 10


def test_memory_is_bounded(without):
    outcome = run("x = []\nwhile True: x.append(bytearray(10**7))", without, memory=256 << 20)
    assert (outcome.ok, outcome.killed_by) == (False, "memory")


def test_output_is_cut_and_read_to_its_end(without):
    outcome = run("import sys\nfor _ in range(500): sys.stdout.write('x' * 10**5)", without, output=1000)
    assert (outcome.stdout, outcome.truncated, outcome.ok) == ("x" * 1000, True, True)


def test_a_large_file_is_refused(without):
    outcome = run("open('f', 'wb').write(bytes(10**7))", without, file_size=10**6)
    assert not outcome.ok and "File too large" in outcome.stderr


def test_many_files_fill_only_the_room_they_have():
    if "files" not in run("").layers:
        pytest.skip("this machine allows no mount namespace")
    outcome = run("for i in range(100): open(str(i), 'wb').write(bytes(10**6))", disk=5 << 20)
    assert "No space left" in outcome.stderr
    outcome = run("for i in range(1000): open(str(i), 'wb').close()", file_count=50)
    assert not outcome.ok and "No space left" in outcome.stderr


def test_open_files_are_counted(without):
    outcome = run("kept = [open('/dev/null') for _ in range(1000)]", without, open_files=32)
    assert "Too many open files" in outcome.stderr


# --- network


@pytest.fixture
def listener() -> Iterator[tuple[int, list[object]]]:
    met: list[object] = []
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.settimeout(0.2)
        done = threading.Event()

        def accept() -> None:
            while not done.is_set():
                with contextlib.suppress(TimeoutError):
                    met.append(server.accept())

        thread = threading.Thread(target=accept)
        thread.start()
        yield server.getsockname()[1], met
        done.set()
        thread.join()


BY_LIBRARY = """
import socket
try:
    socket.create_connection(("127.0.0.1", PORT), timeout=2)
    print("connected")
except OSError as error:
    print("refused")
"""
BY_SYSTEM_CALL = """
import ctypes, struct
libc = ctypes.CDLL(None, use_errno=True)
s = libc.socket(2, 1, 0)
address = struct.pack("<H", 2) + struct.pack(">H", PORT) + bytes([127, 0, 0, 1]) + bytes(8)
print("connected" if libc.connect(s, address, 16) == 0 else "refused")
"""


@pytest.mark.parametrize("attempt", [BY_LIBRARY, BY_SYSTEM_CALL], ids=["library", "system call"])
def test_no_connection_leaves_the_sandbox(without, listener, attempt):
    port, met = listener
    with socket.create_connection(("127.0.0.1", port)):
        time.sleep(0.3)
    assert len(met) == 1, "the listener works"
    outcome = run(attempt.replace("PORT", str(port)), without)
    assert outcome.stdout == "refused\n", outcome.stderr
    time.sleep(0.3)
    assert len(met) == 1


def test_no_datagram_and_no_name_leave_either(without):
    outcome = run(
        """
        import socket
        for attempt in (
            lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 9)),
            lambda: socket.getaddrinfo("example.com", 80),
            lambda: socket.socket(socket.AF_UNIX).connect("\\0abstract"),
        ):
            try: attempt(); print("sent")
            except OSError: print("refused")
        """,
        without,
    )
    assert outcome.stdout == "refused\n" * 3, outcome.stderr


# --- secrets and other people's files


def test_there_is_nothing_in_the_environment(without, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret-value-000000")
    outcome = run(
        """
        import glob, os, subprocess
        print(dict(os.environ))
        for path in ["/proc/self/environ", *glob.glob("/proc/[0-9]*/environ")]:
            try: print(open(path, "rb").read())
            except OSError: pass
        """,
        without,
    )
    assert outcome.ok and "secret" not in outcome.stdout
    assert set(re.findall(r"'(\w+)':", outcome.stdout)) <= {"LC_CTYPE"}, "what Python itself sets for UTF-8"


def test_files_outside_can_be_neither_read_nor_written(without, tmp_path):
    secret, target = tmp_path / "secret.txt", tmp_path / "written.txt"
    secret.write_text("do not tell")
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.getuid() and str(folder).startswith("/tmp/"):
            folder.chmod(0o777)
    outcome = run(
        f"""
        import os
        for attempt in (
            lambda: print(open({str(secret)!r}).read()),
            lambda: open({str(target)!r}, "w").write("x"),
            lambda: open({str(secret)!r}, "a").write("x"),
            lambda: os.remove({str(secret)!r}),
            lambda: os.symlink("/", {str(tmp_path / "link")!r}),
            lambda: print(open(os.path.expanduser("~/.bashrc")).read()),
            lambda: print(open("/etc/passwd").read()),
            lambda: print(os.listdir({str(Path(__file__).parent)!r})),
        ):
            try: attempt(); print("DONE")
            except OSError: print("refused")
        """,
        without,
    )
    assert outcome.stdout == "refused\n" * 8, outcome.stdout + outcome.stderr
    assert secret.read_text() == "do not tell" and sorted(p.name for p in tmp_path.iterdir()) == ["secret.txt"]


def test_the_library_it_runs_on_cannot_be_changed(without):
    outcome = run(
        """
        import json
        try: open(json.__file__, "a").write("#"); print("DONE")
        except OSError: print("refused")
        """,
        without,
    )
    assert outcome.stdout == "refused\n", outcome.stderr


def test_nothing_stays_on_the_disk(without, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run("open('left.txt', 'w').write('x')", without)
    assert list(tmp_path.iterdir()) == []


def test_descriptors_of_the_caller_are_closed(without):
    with open(__file__) as handle:
        os.set_inheritable(handle.fileno(), True)
        source = """
        import os
        for fd in range(3, 64):
            try: os.fstat(fd); print("open:", fd)
            except OSError: pass
        """
        outcome = run(source, without)
    assert outcome.stdout == "", outcome.stdout


# --- processes


def test_alone_means_no_new_process_by_any_way(without):
    outcome = run(
        """
        import ctypes, os, subprocess, sys
        libc = ctypes.CDLL(None, use_errno=True)
        def python(): subprocess.run([sys.executable, "-c", ""])
        for way in (os.fork, python, lambda: os.system("true")):
            try: print("DONE" if way() == 0 else "ran")
            except OSError: print("refused")
        print("refused" if libc.fork() == -1 else os._exit(0))
        print("refused" if libc.syscall(56, 17, 0, 0, 0, 0) == -1 else os._exit(0))
        """,
        without,
    )
    assert outcome.stdout == "refused\n" * 5, outcome.stdout + outcome.stderr


FORK_BOMB = """
import os
while True:
    try: os.fork()
    except OSError: pass
"""


@pytest.fixture(params=[(), ("processes",)], ids=["everything", "no PID namespace"])
def several(request: pytest.FixtureRequest) -> tuple[str, ...]:
    if probe(request.param, processes=4) is None:
        pytest.skip("this machine cannot count the processes of a program")
    return request.param


def test_a_fork_bomb_stays_small_and_ends(several):
    source = NAMED + f"name({ours('bomb')!r})\n" + FORK_BOMB
    most = 0
    with ThreadPoolExecutor(1) as pool:
        bomb = pool.submit(run, source, several, seconds=1.0, processes=6)
        while not bomb.done():
            most = max(most, len(running(ours("bomb"))))
            time.sleep(0.02)
    assert bomb.result().killed_by in ("time", "cpu")
    assert 2 <= most <= 6
    assert running(ours("bomb")) == []


def test_what_a_program_leaves_behind_ends_with_it(several):
    source = NAMED + textwrap.dedent(
        f"""
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                name({ours("stays")!r})
                os.close(1); os.close(2)
                time.sleep(300)
            os._exit(0)
        time.sleep(0.3)
        print("done")
        """
    )
    outcome = run(source, several, processes=4)
    assert (outcome.ok, outcome.stdout) == (True, "done\n"), outcome
    assert running(ours("stays")) == []


def test_all_of_it_ends_when_time_is_up(several):
    source = (
        NAMED + f"os.fork(); os.setsid() if os.getpid() % 2 else 0; os.fork(); name({ours('late')!r}); time.sleep(300)"
    )
    assert run(source, several, processes=6, seconds=1.0).killed_by == "time"
    assert running(ours("late")) == []


@pytest.mark.parametrize("layers", [(), ("processes",), NAMESPACES], ids=["everything", "no PID", "container"])
def test_the_program_ends_when_whoever_asked_for_it_is_killed(layers, tmp_path):
    if probe(layers) is None:
        pytest.skip("this machine's kernel closes nothing but what the test leaves out")
    program = NAMED + f"name({ours('orphan')!r}); time.sleep(60)"
    source = f"from prefine.sandbox import *; run_python({program!r}, bounds=Bounds(seconds=60), without={layers!r})"
    parent = subprocess.Popen([sys.executable, "-c", source], env={**os.environ, "TMPDIR": str(tmp_path)})
    try:
        wait_until(lambda: len(running(ours("orphan"))) == 1)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        wait_until(lambda: running(ours("orphan")) == [])
        wait_until(lambda: not any(path.is_file() for path in tmp_path.rglob("*")))
    finally:
        parent.kill()
        parent.wait()


def wait_until(true, seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "it took too long"
        time.sleep(0.05)


def test_signals_do_not_reach_other_processes(without):
    outcome = run(
        """
        import os, signal
        for target in (os.getppid(), 1, -1, PARENT):
            try: os.kill(target, signal.SIGKILL); print("DONE")
            except OSError: print("refused")
        """.replace("PARENT", str(os.getpid())),
        without,
    )
    assert outcome.stdout == "refused\n" * 4, outcome


# --- honesty


def test_the_layers_are_reported():
    outcome = run("")
    assert outcome.layers[-1] == "audit" and set(outcome.layers) <= {*KERNEL, "audit"}
    assert "hostname" not in run("", ("hostname",)).layers


def test_without_the_kernel_nothing_runs_unless_a_fence_is_enough(tmp_path):
    target = tmp_path / "ran"
    source = f"open({str(target)!r}, 'w')"
    with pytest.raises(InputError, match=r"no kernel layer closes: network, files, processes[\s\S]*remedy"):
        run(source, KERNEL)
    assert not target.exists()
    outcome = run_python(BY_LIBRARY.replace("PORT", "9"), weak=True, without=KERNEL)
    assert (outcome.layers, outcome.stdout) == (("audit",), "refused\n")


@pytest.mark.parametrize("missing", ["network", "files"])
def test_each_side_must_be_closed(missing):
    closers = {"network": ("network", "seccomp"), "files": ("files", "landlock")}[missing]
    with pytest.raises(InputError, match=f"no kernel layer closes: {missing}"):
        run("", closers)


@pytest.mark.parametrize("bounds", [{"seconds": 0}, {"memory": -1}, {"processes": 0}])
def test_impossible_bounds_are_refused(bounds):
    with pytest.raises(InputError, match="bounds above 0"):
        run("", **bounds)


@pytest.mark.parametrize("name", ["/etc/passwd", "../up.txt", "program.py", ""])
def test_files_go_beside_the_program_and_nowhere_else(name):
    with pytest.raises(InputError, match="beside the program"):
        run("", files={name: "x"})


# --- the filter of system calls, without a kernel


@pytest.fixture
def seccomp(monkeypatch):
    monkeypatch.syspath_prepend(str(JAIL))
    import seccomp

    return seccomp


def verdict(lines, architecture: int, number: int, argument: int = 0) -> int:
    """What the kernel's machine makes of a filter: a walk over its lines."""
    data = struct.pack("<iIQ6Q", number, architecture, 0, argument, *[0] * 5)
    accumulator, at = 0, 0
    tests = {0x15: lambda a, k: a == k, 0x35: lambda a, k: a >= k, 0x45: lambda a, k: bool(a & k)}
    while True:
        operation, if_true, if_not, operand = lines[at]
        at += 1
        if operation == 0x06:
            return operand
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, operand)
        else:
            at += if_true if tests[operation](accumulator, operand) else if_not


ALLOW, KILL, NO, UNKNOWN = 0x7FFF0000, 0x80000000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS


@pytest.mark.parametrize("machine, read, thread", [("x86_64", 0, 0x3D0F00), ("aarch64", 63, 0x3D0F00)])
def test_the_filter_says_what_it_should(seccomp, machine, read, thread):
    column, architecture = seccomp.ARCHITECTURES[machine]
    alone = seccomp.filter_lines(machine, alone=True, signals=True, pid=77)
    several = seccomp.filter_lines(machine, alone=False, signals=False, pid=77)
    assert len(alone) < 4096 and max(jump for line in alone for jump in line[1:3]) < 256

    def says(lines, number, argument=0):
        return verdict(lines, architecture, number, argument)

    for numbers in seccomp.CALLS.values():
        if numbers[column] >= 0:
            assert says(alone, numbers[column]) == says(several, numbers[column]) == NO
    assert says(alone, read) == says(several, read) == ALLOW
    assert verdict(alone, 0x40000003, read) == KILL, "a 32-bit call on a 64-bit kernel"
    clone = seccomp.CLONE[column]
    assert says(alone, clone, thread) == ALLOW, "a thread"
    assert says(alone, clone, signal.SIGCHLD) == NO and says(several, clone, signal.SIGCHLD) == ALLOW, "a process"
    assert says(several, clone, 0x10000000 | signal.SIGCHLD) == NO, "a user namespace"
    assert says(several, seccomp.CLONE3[column]) == UNKNOWN
    assert says(alone, seccomp.SIGNALS["kill"][column], 77) == NO
    assert says(several, seccomp.SIGNALS["kill"][column], 77) == ALLOW
    assert says(alone, seccomp.TGKILL[column], 77) == ALLOW and says(alone, seccomp.TGKILL[column], 78) == NO
    if machine == "x86_64":
        assert says(alone, seccomp.X32 | 41) == NO


@pytest.mark.parametrize(
    "column, header", [(0, "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), (1, "/usr/include/asm-generic/unistd.h")]
)
def test_the_numbers_are_those_of_the_kernel(seccomp, column, header):
    if not Path(header).exists():
        pytest.skip(f"the kernel's headers are not installed ({header})")
    numbers = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", Path(header).read_text()))
    ours = {**seccomp.CALLS, **seccomp.SIGNALS, **seccomp.FORKS, "tgkill": seccomp.TGKILL}
    ours |= {"clone": seccomp.CLONE, "clone3": seccomp.CLONE3}
    assert {n: v[column] for n, v in ours.items() if n in numbers} == {n: int(numbers[n]) for n in ours if n in numbers}
    assert all(v[column] == -1 for n, v in ours.items() if n not in numbers) or column == 1
