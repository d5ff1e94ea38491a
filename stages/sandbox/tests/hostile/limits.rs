//! Programs that want more than they may have, or never end.

use refrain_sandbox::Layer;

use super::{ADDS_ONE, Hostile};

const fn limited(
    name: &'static str,
    program: &'static str,
    verdicts: &'static [&'static str],
) -> Hostile {
    Hostile { name, program, tests: ADDS_ONE, verdicts, needs: None }
}

pub const PROGRAMS: &[Hostile] = &[
    limited("memory at once", "x = 'a' * 10**11", &["memory"]),
    limited(
        "memory bit by bit",
        "x = []\nwhile True:\n    x.append(bytearray(10**6))",
        &["memory"],
    ),
    limited(
        "memory while exceptions are caught",
        "x = []\nwhile True:\n    try:\n        x.append(bytearray(10**6))\n    \
         except MemoryError:\n        pass",
        &["timed out", "memory"],
    ),
    limited(
        "mapped memory",
        "import mmap\nx = [mmap.mmap(-1, 1 << 28) for _ in range(99)]",
        &["exception", "memory"],
    ),
    limited(
        "pipes full of data",
        "import os, fcntl\nfor _ in range(1000):\n    r, w = os.pipe()\n    os.set_blocking(w, False)\n    \
         os.write(w, b'x' * 65536)",
        &["exception"],
    ),
    limited("an endless loop", "while True: pass", &["timed out"]),
    limited("sleep", "import time\ntime.sleep(10**6)", &["timed out"]),
    limited("endless output", "while True: print('x' * 10**6)", &["timed out"]),
    limited(
        "endless output on standard error",
        "import sys\nwhile True: sys.stderr.write('x' * 10**6)",
        &["timed out"],
    ),
    limited(
        "a flood of every descriptor",
        "import os\nwhile True:\n    for file in range(1, 64):\n        try: os.write(file, b'p' * 4096)\n        \
         except OSError: pass",
        &["ended", "timed out"],
    ),
    limited(
        "catching all exceptions and signals",
        "import signal\nfor number in range(1, 65):\n    try: signal.signal(number, signal.SIG_IGN)\n    \
         except (OSError, ValueError): pass\nwhile True:\n    try:\n        while True: pass\n    \
         except BaseException: pass",
        &["timed out"],
    ),
    limited(
        "stopping itself",
        "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
        &["timed out"],
    ),
    limited("killing itself", "import os\nos.kill(os.getpid(), 9)", &["exception"]),
    limited("aborting", "import os\nos.abort()", &["crashed"]),
    limited("a broken pointer", "import ctypes\nctypes.string_at(8)", &["crashed"]),
    limited(
        "a stack without end",
        "import sys, ctypes\nsys.setrecursionlimit(10**9)\n\
         class A:\n    def __repr__(self): return repr(self)\nrepr(A())",
        &["crashed", "exception", "memory"],
    ),
    Hostile {
        needs: Some(Layer::Files),
        ..limited(
            "a file of 10 GB",
            "import os\ndef fill():\n    with open('big', 'wb') as file:\n        \
             for _ in range(10000): file.write(b'x' * 10**6)\nmust_fail(fill)\n\
             must_fail(os.truncate, 'big', 10**10)\ndef second():\n    \
             with open('more', 'wb') as file:\n        for _ in range(100): file.write(b'x' * 10**6)\n\
             must_fail(second)",
            &["passed"],
        )
    },
    Hostile {
        needs: Some(Layer::Files),
        ..limited(
            "a million files",
            "import os\ndef fill():\n    for i in range(10**6): os.mkdir(f'{i}')\nmust_fail(fill)",
            &["passed"],
        )
    },
    limited(
        "a thousand open files",
        "import os\nmust_fail(lambda: [os.open('/dev/null', 0) for _ in range(1000)])",
        &["passed"],
    ),
    Hostile {
        needs: Some(Layer::UserNamespace),
        ..limited(
            "a thousand threads",
            "import threading, time\nthreading.stack_size(32768)\ndef start():\n    \
         for _ in range(1000): threading.Thread(target=time.sleep, args=(9,), daemon=True).start()\n\
         must_fail(start, errors=(RuntimeError,))",
            &["passed"],
        )
    },
    limited(
        "a thread that does not end",
        "import threading\ndef spin():\n    while True: pass\nthreading.Thread(target=spin).start()",
        &["passed"],
    ),
    limited(
        "a huge exception",
        "class E(Exception):\n    def __str__(self): return 'x' * 10**8\n    __repr__ = __str__\n\
         E.__name__ = 'E' * 10**7\nraise E('y' * 10**8)",
        &["exception"],
    ),
    limited(
        "terminal escapes",
        "raise type('\\x1b[2J\\x1b]0;owned\\x07', (Exception,), {})('\\x1b[31m')",
        &["exception"],
    ),
    limited(
        "a compiler bomb",
        "exec('(' * 10**5 + ')' * 10**5)",
        &["exception", "memory", "crashed"],
    ),
];
