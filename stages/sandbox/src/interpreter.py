"""Prints what an interpreter consists of, as JSON; run with `-I -S -c` by the caller, outside the sandbox."""
import importlib.machinery
import json
import os
import platform
import sys
import sysconfig

UNUSED = ("_test", "_xx", "xx", "_tkinter", "_curses", "readline")


def load_extensions(folder):
    """Imports every extension module, so that the shared libraries they need are mapped."""
    for name in sorted(os.listdir(folder)):
        module = name.split(".")[0]
        if name.endswith(".so") and not module.startswith(UNUSED):
            try:
                __import__(module)
            except Exception:
                pass


def mapped_files():
    with open("/proc/self/maps") as maps:
        fields = [line.split(None, 5) for line in maps]
    return {each[5].strip() for each in fields if len(each) == 6 and each[5].startswith("/")}


standard = os.path.dirname(os.path.realpath(os.__file__))
extensions = [path for path in sys.path if path.endswith("lib-dynload")]
for folder in extensions:
    load_extensions(folder)
executable = os.path.realpath("/proc/self/exe")
libraries = {os.path.dirname(path) for path in mapped_files() if ".so" in os.path.basename(path)}
print(
    json.dumps(
        {
            "executable": executable,
            "version": platform.python_implementation() + " " + platform.python_version(),
            "standard": standard,
            "folders": sorted(libraries | {standard} | {os.path.realpath(x) for x in extensions}),
        }
    )
)
