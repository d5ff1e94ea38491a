"""Prints, as JSON, the version of this interpreter and of the packages named in the arguments, and the devices."""
import json
import platform
import sys
from importlib import metadata


def version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


packages = {name: version(name) for name in sys.argv[1:]}
devices, fault = [], None
if packages.get("torch"):
    try:
        import torch

        devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        if not devices and torch.backends.mps.is_available():
            devices = ["mps"]
    except Exception as error:
        fault = f"{type(error).__name__}: {error}".splitlines()[0]
print(json.dumps({
    "version": f"{platform.python_implementation()} {platform.python_version()}",
    "executable": sys.executable,
    "packages": packages,
    "devices": devices or ["cpu"],
    "fault": fault,
}))
