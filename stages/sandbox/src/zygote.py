"""The confined interpreter: forks a process for each job that it is sent, and never runs a job itself.

Its text is given with `-c`, so that it needs no file. Names that a job uses after it has executed a
program are bound before, since the program may replace every name that it can reach.
"""


def main():
    import ast
    import builtins
    import gc
    import marshal
    import os
    import resource
    import sys
    import types
    from array import array
    from _socket import CMSG_SPACE, socket

    # What programs import most is imported here, once. `random` is seeded below.
    import bisect, cmath, collections, copy, datetime, functools, heapq, itertools, math  # noqa
    import operator, random, re, string, typing  # noqa

    LONGEST = 1 << 20
    DEEPEST = 64
    read, write, leave = os.read, os.write, os._exit
    loads, dumps = marshal.loads, marshal.dumps
    type_name = type.__dict__["__name__"].__get__

    def exactly(file, count):
        """Reads so many bytes; ends the process where the other side has gone."""
        parts = []
        while count:
            part = read(file, min(count, 1 << 16))
            if not part:
                leave(0)
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def frame(file, longest=None):
        count = int.from_bytes(exactly(file, 8), "little")
        if longest is not None and count > longest:
            raise ValueError("too long")
        return exactly(file, count)

    def whole(file, data):
        while data:
            data = data[write(file, data) :]

    def send(file, data):
        whole(file, len(data).to_bytes(8, "little") + data)

    def name_of(error):
        return type_name(type(error))[:64].encode("ascii", "replace")

    def why(error, Memory=MemoryError, ends=(SystemExit, KeyboardInterrupt, GeneratorExit)):
        """One letter and perhaps a name: why a program or its tests did not come to their end."""
        if isinstance(error, Memory):
            return b"m"
        return b"e" if isinstance(error, ends) else b"x" + name_of(error)

    def execute(source, told):
        """Executes a program as a module without a name; its globals, or nothing where it failed."""
        names = {}
        try:
            code = compile(source.decode(), "<program>", "exec", dont_inherit=True)
        except BaseException as error:
            whole(told, b"s" + name_of(error))
            return None
        try:
            exec(code, names)
        except BaseException as error:
            whole(told, why(error))
            return None
        return names

    def judge(given, told, Wrong=AssertionError, execute_code=exec):
        """The data set's own rule: the program and then its tests, in one process."""
        names = execute(frame(given), told)
        if names is None:
            return
        whole(told, b"r")
        tests = loads(frame(given))
        token = frame(given)
        try:
            execute_code(tests, names)
        except Wrong:
            whole(told, b"w")
        except BaseException as error:
            whole(told, why(error))
        else:
            whole(told, b"p" + token)

    def show(value, depth=0):
        """A plain value as a literal; an error for anything else."""
        if depth > DEEPEST:
            raise ValueError("too deep")
        kind = type(value)
        if value is Ellipsis:
            return "..."
        if value is None or kind is bool:
            return repr(value)
        if kind is float and value in (math.inf, -math.inf):
            return "1e999" if value > 0 else "-1e999"
        if kind in (float, complex, str, bytes):
            return repr(value)
        if isinstance(value, int):
            return hex(int.__int__(value))
        if isinstance(value, str):
            return repr(str.__str__(value))
        if isinstance(value, dict):
            items = dict.items(value)
            return "{" + ",".join(f"{show(k, depth + 1)}:{show(v, depth + 1)}" for k, v in items) + "}"
        for base, opening, closing in SEQUENCES:
            if isinstance(value, base):
                inner = ",".join([show(item, depth + 1) for item in base.__iter__(value)])
                comma = "," if base is tuple and inner else ""
                return opening + inner + comma + closing if inner or opening != "{" else "set()"
        raise ValueError("not plain")

    SEQUENCES = ((list, "[", "]"), (tuple, "(", ")"), (set, "{", "}"), (frozenset, "{", "}"))

    def answer(value):
        if type(value) in VIEWS:
            value = list(value)
        if type(value) in ITERATORS:
            return b"i" + show(list(itertools.islice(value, LONGEST))).encode()
        return b"v" + show(value).encode()

    VIEWS = (range, type({}.keys()), type({}.values()), type({}.items()))
    ITERATORS = (
        *(type(make) for make in ((x for x in ()), iter(()), iter([]), reversed([]))),
        *(map, filter, zip, enumerate, itertools.chain, itertools.islice),
    )

    def serve(given, told, calls, answers):
        """Executes the program and answers calls of its functions, knowing no test."""
        names = execute(frame(given), told)
        if names is None:
            return
        while True:
            name, arguments, keywords = loads(frame(calls))
            try:
                function = names[name] if name in names else getattr(builtins, name)
                value = function(*arguments, **keywords)
            except BaseException as error:
                send(answers, b"x" + name_of(error))
                continue
            try:
                text = answer(value)
            except BaseException:
                text = b"o"
            send(answers, text if len(text) <= LONGEST else b"o")

    def literal(text):
        if text == b"":
            raise ValueError("nothing")
        return ast.literal_eval(text.decode())

    def referee(given, told, calls, answers):
        """Executes the tests against a program that another process holds."""
        tests, names = loads(frame(given)), loads(frame(given))

        class Remote:
            """A function of the program: its arguments and its value travel as plain data."""

            def __init__(self, name):
                self._name = name

            def __call__(self, *arguments, **keywords):
                send(calls, dumps((self._name, arguments, keywords)))
                text = frame(answers, LONGEST)
                if text[:1] == b"v":
                    return literal(text[1:])
                if text[:1] == b"i":
                    return iter(literal(text[1:]))
                error = getattr(builtins, text[1:].decode(), None) if text[:1] == b"x" else None
                if isinstance(error, type) and issubclass(error, Exception):
                    raise error
                raise RuntimeError("not plain")

            def __getattr__(self, attribute):
                # A module that the program imports and the tests use.
                return getattr(__import__(self._name), attribute)

        try:
            exec(tests, {name: Remote(name) for name in names})
        except BaseException:
            whole(told, b"n")
        else:
            whole(told, b"y")

    def prepare(given, told):
        """Compiles tests, and lists the names in them that the program must define."""
        try:
            tree = ast.parse(frame(given).decode())
            code = compile(tree, "<tests>", "exec", dont_inherit=True)
        except BaseException as error:
            whole(told, b"e")
            send(told, str(error).encode("utf-8", "replace")[:400])
            return
        read_names, own = set(), set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Name):
                (read_names if isinstance(node.ctx, ast.Load) else own).add(node.id)
            elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                own.add(node.name)
            elif isinstance(node, ast.arg):
                own.add(node.arg)
            elif isinstance(node, ast.alias):
                own.add((node.asname or node.name).split(".")[0])
            elif isinstance(node, ast.ExceptHandler) and node.name:
                own.add(node.name)
        free = read_names - own
        # A data set may ask for a function that is named as a builtin one.
        missing = sorted(free - set(dir(builtins)) or free)
        whole(told, b"c")
        send(told, dumps(code))
        send(told, dumps(missing))

    ROLES = {"judge": judge, "serve": serve, "referee": referee, "prepare": prepare}
    LIMITS = (resource.RLIMIT_CPU, resource.RLIMIT_AS, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE)

    def job(words, files):
        os.dup2(0, 2)
        edges = sorted([2, *files])
        for low, high in zip(edges, edges[1:] + [LAST_FILE]):
            os.closerange(low + 1, high)
        for limit, value in zip(LIMITS, map(int, words[1:])):
            inherited = resource.getrlimit(limit)[1]
            if inherited != resource.RLIM_INFINITY:
                value = min(value, inherited)
            grace = 1 if limit == resource.RLIMIT_CPU and value != inherited else 0
            resource.setrlimit(limit, (value, value + grace))
        random.seed(0)
        ROLES[words[0]](*files)

    LAST_FILE = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    control = socket(fileno=int(sys.argv[1]))
    scratch = sys.argv[2]
    os.environ.clear()
    os.environ.update({"HOME": scratch, "LANG": "C.UTF-8", "TMPDIR": scratch})
    sys.path[:] = [path for path in sys.path if path.startswith("/")]
    sys.argv[:] = [""]
    sys.modules["__main__"] = types.ModuleType("__main__")
    gc.collect()
    gc.freeze()
    control.send(b"ready")
    while True:
        text, sent, _, _ = control.recvmsg(256, CMSG_SPACE(4 * 16))
        if not text:
            leave(0)
        files = array("i")
        for _, _, data in sent:
            files.frombytes(data[: len(data) // 4 * 4])
        process = os.fork()
        if process == 0:
            try:
                control.close()
                if scratch:
                    os.chdir(scratch)
                job(text.decode().split(), list(files))
            finally:
                leave(0)
        for file in files:
            os.close(file)
        control.send(b"p%d" % process)
        _, status, usage = os.wait4(process, 0)
        spent = int((usage.ru_utime + usage.ru_stime) * 1000)
        control.send(b"e%d %d" % (status, spent))


main()
