//! Programs that reach for what is outside; those that are refused everything pass.

use refrain_sandbox::Layer;

use super::{ADDS_ONE, Hostile};

/// A program whose attempts must all be refused.
const fn refused(name: &'static str, program: &'static str) -> Hostile {
    Hostile { name, program, tests: ADDS_ONE, verdicts: &["passed"], needs: None }
}

/// The same, with attempts that begin in the scratch folder.
const fn in_scratch(name: &'static str, program: &'static str) -> Hostile {
    needing(Layer::Files, name, program)
}

/// The same, refused by one layer alone.
const fn needing(layer: Layer, name: &'static str, program: &'static str) -> Hostile {
    Hostile { needs: Some(layer), ..refused(name, program) }
}

pub const PROGRAMS: &[Hostile] = &[
    refused(
        "home folders",
        "import os\nfor path in ('/root', '/home', '/work', '/etc/passwd', '/etc/shadow'):\n    \
         must_fail(os.listdir, path)\n    must_fail(open, path)",
    ),
    refused(
        "/proc and /sys",
        "import os\nfor path in ('/proc/self/maps', '/proc/1/environ', '/proc/self/mem', '/sys/fs', \
         '/proc/self/fd'):\n    must_fail(os.listdir, path)\n    must_fail(open, path)",
    ),
    refused(
        "the parent's environment",
        "import os\nif set(os.environ) - {'HOME', 'LANG', 'TMPDIR'}:\n    raise SystemExit",
    ),
    refused(
        "devices",
        "import os\nfor path in ('/dev/mem', '/dev/kmsg', '/dev/tty', '/dev/sda', '/dev/vda', \
         '/dev/shm', '/dev/ptmx'):\n    must_fail(os.open, path, os.O_RDWR)",
    ),
    refused(
        "TCP",
        "import socket\nmust_fail(socket.create_connection, ('127.0.0.1', PORT_TCP), 1)\n\
         must_fail(socket.socket, socket.AF_INET6)",
    ),
    refused(
        "UDP",
        "import socket\ndef send():\n    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n    \
         s.sendto(b'x', ('127.0.0.1', PORT_UDP))\nmust_fail(send)",
    ),
    refused(
        "Unix sockets, named, abstract and paired",
        "import socket\nmust_fail(socket.socket, socket.AF_UNIX)\nmust_fail(socket.socketpair)",
    ),
    refused("DNS", "import socket\nmust_fail(socket.getaddrinfo, 'example.com', 80)"),
    refused(
        "raw, packet and netlink sockets",
        "import socket\nfor family in (socket.AF_PACKET, socket.AF_NETLINK, socket.AF_INET):\n    \
         must_fail(socket.socket, family, socket.SOCK_RAW)",
    ),
    refused("fork bomb", "import os\nfor _ in range(1000):\n    must_fail(os.fork)"),
    refused(
        "other programs",
        "import os, subprocess, sys\nmust_fail(os.execv, '/bin/sh', ['sh'])\n\
         must_fail(os.execv, sys.executable or '/usr/bin/python3', ['python3'])\n\
         must_fail(subprocess.run, ['true'])\nmust_fail(os.posix_spawn, '/bin/true', ['true'], {})\n\
         if os.system('true') == 0:\n    raise SystemExit",
    ),
    refused(
        "a daemon",
        "import os, multiprocessing\n\
         must_fail(multiprocessing.get_context('fork').Process(target=print).start)\n\
         must_fail(os.forkpty)\nmust_fail(system_call, 435, None, 0)",
    ),
    refused(
        "writing into packages",
        "import os, json\nhere = os.path.dirname(os.__file__)\nmust_fail(open, os.__file__, 'a')\n\
         must_fail(open, os.path.join(here, 'TRACE'), 'w')\n\
         must_fail(os.mkdir, os.path.join(here, 'site-packages', 'TRACE'))\n\
         must_fail(os.rename, json.__file__, json.__file__ + '.old')\n\
         must_fail(os.chmod, os.__file__, 0o777)\nmust_fail(os.utime, os.__file__)",
    ),
    refused(
        "writing beside the scratch folder",
        "for folder in ('/', '/tmp', '/var/tmp', '/dev', '/dev/shm', '/box', '/root', '..'):\n    \
         must_fail(open, folder + '/TRACE', 'w')",
    ),
    in_scratch(
        "links out of the scratch folder",
        "import os\nos.symlink('/etc/passwd', 'link')\nmust_fail(open, 'link')\n\
         os.symlink('/tmp/TRACE', 'TRACE')\nmust_fail(open, 'TRACE', 'w')\n\
         os.symlink('/', 'root')\nmust_fail(open, 'root/TRACE', 'w')\n\
         must_fail(os.link, os.__file__, 'hard')\nmust_fail(open, '../../../../etc/passwd')",
    ),
    refused(
        "signals to others",
        "import os, signal\nfor target in (os.getppid(), 1, 2, -1, 0, -os.getpgrp()):\n    \
         must_fail(os.kill, target, 9)\nmust_fail(os.killpg, os.getpgrp(), 9)\n\
         must_fail(os.kill, os.getppid(), signal.SIGSTOP)\nmust_fail(system_call, 424, 1, 9, None, 0)",
    ),
    refused(
        "signals by way of the kernel",
        "import os, fcntl, signal\nr, w = os.pipe()\nmust_fail(fcntl.fcntl, r, fcntl.F_SETOWN, 1)\n\
         must_fail(fcntl.fcntl, r, fcntl.F_SETSIG, 9)\nmust_fail(system_call, 222, 0, None, None)",
    ),
    refused(
        "ptrace and memory of others",
        "import os\nmust_fail(system_call, 101, 16, os.getppid(), None, None)\n\
         must_fail(system_call, 310, 1, None, 0, None, 0, 0)\n\
         must_fail(system_call, 311, 1, None, 0, None, 0, 0)\n\
         must_fail(system_call, 438, 1, 0, 0)\nmust_fail(system_call, 440, 1, None, 0, 0, 0)",
    ),
    refused(
        "io_uring",
        "must_fail(system_call, 425, 8, None)\nmust_fail(system_call, 426, 0, 1, 0, 0)",
    ),
    refused("memfd", "import os\nmust_fail(os.memfd_create, 'x')\nmust_fail(system_call, 447, 0)"),
    refused("userfaultfd", "must_fail(system_call, 323, 0)"),
    refused(
        "bpf, perf, keys, kexec, modules",
        "for number in (321, 298, 248, 249, 250, 246, 320, 175, 313, 304, 303):\n    \
         must_fail(system_call, number, 0, None, None, 0, 0)",
    ),
    refused(
        "mounts and namespaces",
        "for number in (165, 166, 155, 161, 272, 308, 428, 429, 430, 442):\n    \
         must_fail(system_call, number, 0x10000000, None, None, 0, 0)\n\
         must_fail(system_call, 56, 0x10000011, None, None, None, None)",
    ),
    needing(
        Layer::UnprivilegedId,
        "other ids and capabilities",
        "import os\nmust_fail(os.setuid, 0)\nmust_fail(os.setgid, 0)\nmust_fail(os.setgroups, [0])\n\
         must_fail(os.setresuid, 0, 0, 0)\nmust_fail(system_call, 126, None, None)\n\
         if 0 in (os.getuid(), os.geteuid(), os.getgid()):\n    raise SystemExit",
    ),
    refused(
        "raising its own limits",
        "import resource as r\nfor limit in (r.RLIMIT_AS, r.RLIMIT_CPU, r.RLIMIT_NOFILE, \
         r.RLIMIT_FSIZE, r.RLIMIT_NPROC):\n    high = r.getrlimit(limit)[1]\n    \
         must_fail(r.setrlimit, limit, (high + 1, high + 1), errors=(OSError, ValueError))\n    \
         must_fail(r.setrlimit, limit, (-1, -1), errors=(OSError, ValueError))\n    \
         must_fail(r.prlimit, 1, limit, (1, 1))",
    ),
    refused(
        "shared memory and queues",
        "for number in (29, 30, 64, 68, 240):\n    must_fail(system_call, number, 0, 4096, 0o1777)\n\
         from multiprocessing import shared_memory\n\
         must_fail(shared_memory.SharedMemory, None, True, 4096)",
    ),
    refused(
        "priorities and processors",
        "import os\nmust_fail(os.nice, -5)\nmust_fail(os.sched_setaffinity, 1, {0})\n\
         must_fail(os.setpriority, os.PRIO_USER, 0, 19)\n\
         must_fail(os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(1))",
    ),
    refused(
        "device nodes, roots, host names",
        "import os, socket\nmust_fail(os.mknod, 'null', 0o20666, os.makedev(1, 3))\n\
         must_fail(os.mkfifo, 'fifo')\nmust_fail(os.chroot, '.')\n\
         must_fail(socket.sethostname, 'x')\nmust_fail(os.chown, '.', 0, 0)",
    ),
    refused(
        "terminals",
        "import fcntl\nfor file in (0, 1, 2):\n    must_fail(fcntl.ioctl, file, 0x5412, b'x')",
    ),
    refused(
        "a filter of its own",
        "must_fail(system_call, 317, 1, 8, None)\nmust_fail(system_call, 157, 22, 2, None)\n\
         must_fail(system_call, 157, 38, 0, 0, 0, 0)\nmust_fail(system_call, 444, None, 0, 1)",
    ),
    in_scratch(
        "native code from the scratch folder",
        "import ctypes, shutil, _ctypes\nshutil.copyfile(_ctypes.__file__, 'own.so')\n\
         must_fail(ctypes.CDLL, './own.so')",
    ),
    in_scratch(
        "leaving files for the next program",
        "import os\nif os.listdir('.'):\n    raise SystemExit('files of another program')\n\
         os.mkdir('TRACE')\nopen('TRACE/kept', 'w').write('x')\nopen('math.py', 'w').write('x = 1')\n\
         os.chmod('.', 0)",
    ),
    in_scratch(
        "finding files of an earlier program",
        "import os\nif os.listdir('.'):\n    raise SystemExit('files of another program')",
    ),
    refused(
        "descriptors of others",
        "import os, stat\nkinds = []\nfor file in range(3, 300):\n    try:\n        \
         kinds.append(os.fstat(file).st_mode)\n    except OSError:\n        pass\n\
         if not all(stat.S_ISFIFO(kind) for kind in kinds):\n    raise SystemExit",
    ),
];
