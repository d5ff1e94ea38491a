//! Programs that want to pass without being right.

use super::{ADDS_ONE, Hostile};

/// A program that does not pass.
const fn fails(
    name: &'static str,
    program: &'static str,
    verdicts: &'static [&'static str],
) -> Hostile {
    Hostile { name, program, tests: ADDS_ONE, verdicts, needs: None }
}

/// A program that passes by the data set's own rule, which is not believed.
const fn seen(name: &'static str, program: &'static str, tests: &'static str) -> Hostile {
    Hostile { name, program, tests, verdicts: &["suspicious"], needs: None }
}

pub const PROGRAMS: &[Hostile] = &[
    fails("os._exit(0)", "import os\nos._exit(0)", &["ended"]),
    fails("os._exit(0) in the tests", "import os\ndef f(x): os._exit(0)", &["ended"]),
    fails("sys.exit(0)", "import sys\nsys.exit(0)", &["ended"]),
    fails("sys.exit(0) in the tests", "import sys\ndef f(x): sys.exit(0)", &["ended"]),
    fails(
        "atexit",
        "import atexit, os\natexit.register(os._exit, 0)\ndef f(x): return 0",
        &["wrong"],
    ),
    fails(
        "a thread that ends the process",
        "import threading, os, time\ndef end():\n    time.sleep(.1)\n    os._exit(0)\n\
         threading.Thread(target=end).start()\ndef f(x):\n    time.sleep(1)\n    return 0",
        &["ended"],
    ),
    fails(
        "printing passed",
        "print('passed')\nprint('ok', flush=True)\ndef f(x): return 0",
        &["wrong"],
    ),
    fails(
        "telling a verdict on every descriptor",
        "import os\nfor file in range(1, 64):\n    try: os.write(file, b'rp' + bytes(16))\n    \
         except OSError: pass\nos._exit(0)",
        &["ended"],
    ),
    fails(
        "rebinding the names of assert",
        "import builtins\nclass Never(Exception): pass\nAssertionError = Never\n\
         builtins.AssertionError = Never\nbuiltins.BaseException = Never\n__debug__x = False\n\
         def f(x): return 0",
        &["wrong", "ended"],
    ),
    fails(
        "patched exec, compile and marshal",
        "import builtins, marshal\nbuiltins.exec = lambda *a: None\nbuiltins.compile = lambda *a: None\n\
         marshal.loads = lambda data: compile('', '', 'exec')\ndef f(x): return 0",
        &["wrong"],
    ),
    fails(
        "closing every descriptor",
        "import os\nos.closerange(0, 1024)\ndef f(x): return 0",
        &["ended"],
    ),
    fails("swallowing the tests in a string", "def f(x): return 0\n'''", &["syntax"]),
    seen(
        "an object that equals everything",
        "class A:\n    def __eq__(self, other): return True\ndef f(x): return A()",
        ADDS_ONE,
    ),
    seen(
        "a list that equals everything",
        "class A(list):\n    def __eq__(self, other): return True\ndef f(x): return A()",
        "assert f(1) == [2]\n",
    ),
    seen(
        "a number that equals everything",
        "class A(int):\n    __eq__ = lambda self, other: True\n    __index__ = __int__ = lambda s: 2\n\
         def f(x): return A(9)",
        ADDS_ONE,
    ),
    seen(
        "patched builtins",
        "import builtins\nbuiltins.set = lambda *a: 0\ndef f(x): return []",
        "assert set(f(1)) == set([2])\n",
    ),
    seen(
        "builtins of its own",
        "import builtins\n__builtins__ = {**vars(builtins), 'sorted': lambda *a: [1]}\n\
         def f(x): return [3]",
        "assert sorted(f(1)) == [1]\n",
    ),
    seen(
        "patched math",
        "import math\nmath.isclose = lambda *a, **k: True\ndef f(x): return 7.0",
        "import math\nassert math.isclose(f(1), 2.0)\n",
    ),
    seen(
        "another module in place of math",
        "import sys, types\nm = types.ModuleType('math')\nm.isclose = lambda *a: True\n\
         sys.modules['math'] = m\ndef f(x): return 7.0",
        "import math\nassert math.isclose(f(1), 2.0)\n",
    ),
    seen(
        "settrace with f_lineno",
        "import sys\ndef f(x):\n    frame = sys._getframe(1)\n    def jump(frame, event, argument):\n        \
         if event == 'line' and frame.f_lineno < 4:\n            frame.f_lineno = 4\n        return jump\n    \
         frame.f_trace = jump\n    sys.settrace(lambda *a: None)\n    return 2",
        "assert f(1) == 2\nassert f(5) == 6\nassert f(-7) == -6\npass\n",
    ),
    seen(
        "constants of the calling frame",
        "import sys\ndef f(x):\n    code = sys._getframe(1).f_code\n    \
         numbers = [c for c in code.co_consts if isinstance(c, int)]\n    \
         i = numbers.index(x)\n    return {1: 2, 5: 6, -7: -6}.get(x) if {2, 6, -6} <= set(numbers) else 0",
        ADDS_ONE,
    ),
    seen(
        "the token in a frame",
        "import sys, os\ndef f(x):\n    frame = sys._getframe(1)\n    while frame:\n        \
         token = frame.f_locals.get('token')\n        if token:\n            \
         os.write(frame.f_locals['told'], b'p' + token)\n            os._exit(0)\n        \
         frame = frame.f_back",
        ADDS_ONE,
    ),
    seen(
        "the token in a traceback",
        "import os\ndef f(x):\n    try: raise ValueError\n    except ValueError as e:\n        \
         frame = e.__traceback__.tb_frame.f_back\n    while frame:\n        \
         token = frame.f_locals.get('token')\n        if token:\n            \
         os.write(frame.f_locals['told'], b'p' + token)\n            os._exit(0)\n        \
         frame = frame.f_back",
        ADDS_ONE,
    ),
    seen(
        "the token by gc",
        "import gc, os, sys, types\ndef f(x):\n    gc.unfreeze()\n    here = sys._getframe()\n    \
         found = [o for o in gc.get_objects() if isinstance(o, types.FrameType)]\n    \
         for code in gc.get_referrers(here) + found + [here.f_back.f_back]:\n        \
         names = getattr(code, 'f_locals', {})\n        if 'token' in names:\n            \
         os.write(names['told'], b'p' + names['token'])\n            os._exit(0)",
        ADDS_ONE,
    ),
    seen(
        "playing the whole protocol",
        "import os\ndef exactly(file, n):\n    data = b''\n    \
         while len(data) < n: data += os.read(file, n - len(data))\n    return data\n\
         def frame(file): return exactly(file, int.from_bytes(exactly(file, 8), 'little'))\n\
         def is_open(file):\n    try: return bool(os.fstat(file))\n    except OSError: return False\n\
         files = [file for file in range(3, 64) if is_open(file)]\nif len(files) == 2:\n    \
         given, told = files\n    os.write(told, b'r')\n    frame(given)\n    \
         os.write(told, b'p' + frame(given))\n    os._exit(0)\ndef f(x): return 0",
        ADDS_ONE,
    ),
    seen(
        "ctypes on the tests' constants",
        "import sys, ctypes\ndef f(x):\n    code = sys._getframe(1).f_code\n    consts = code.co_consts\n    \
         size = ctypes.sizeof(ctypes.c_void_p)\n    seven = 10**6 + x\n    ctypes.pythonapi.Py_IncRef(ctypes.py_object(seven))\n    \
         for i, c in enumerate(consts):\n        if isinstance(c, int) and c == {1: 1002, 5: 1006}[x]:\n            \
         ctypes.c_void_p.from_address(id(consts) + tuple.__basicsize__ + i * size).value = id(seven)\n    return seven",
        "assert f(1) == 1002\nassert f(5) == 1006\n",
    ),
    seen(
        "attacking the referee",
        "import os, sys\ndef f(x):\n    if sys._getframe(1).f_code.co_filename == '<tests>':\n        \
         return x + 1\n    nested = b'v' + b'[' * 50000\n    for file in range(3, 64):\n        \
         for data in (len(nested).to_bytes(8, 'little') + nested, b'y', (1 << 60).to_bytes(8, 'little')):\n            \
         try: os.write(file, data)\n            except OSError: pass\n    os._exit(0)",
        ADDS_ONE,
    ),
];
