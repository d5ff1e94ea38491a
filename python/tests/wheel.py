"""Installs a wheel into an empty virtual environment and uses it there. Run by hand:

    python python/tests/wheel.py target/wheels/refrain_workflow-*.whl [pip's options]

pip fetches pyarrow; `--no-index --find-links FOLDER` takes it from a folder.
"""

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

INSIDE = '''
import refrain_workflow as refrain

results = refrain.results("first/workflow.yaml")
assert results.num_rows == 2 and "right (sd)" in results.column_names, results
each = refrain.results("first/workflow.yaml", each=True)
assert each.num_rows == 4 and each.column("right").null_count == 0, each
scored = refrain.table("first/workflow.yaml", "scored")
assert "logprobs" in scored.column_names and scored.num_rows == 96, scored.schema
log = refrain.table("first/workflow.yaml", "base.log")
assert log.column("step").to_pylist() == list(range(400)), log
for wrong, words, code in [
    (lambda: refrain.table("first/workflow.yaml", "scord"), "did you mean `scored`", 2),
    (lambda: refrain.table("first/workflow.yaml", "base"), "is not a table", 2),
    (lambda: refrain.results("none.yaml"), "there is no `none.yaml`", 2),
]:
    try:
        wrong()
    except refrain.RefrainError as error:
        assert words in str(error) and error.exit_code == code, (str(error), error.exit_code)
    else:
        raise AssertionError(words)
'''


def main() -> None:
    if len(sys.argv) < 2:
        print("skipped: no wheel is named; `python/build` makes one")
        return
    wheel = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        venv.create(home / "env", with_pip=True)
        scripts = home / "env" / ("Scripts" if os.name == "nt" else "bin")
        # Nothing of the caller's: the program must be found where pip put it.
        environment = {"PATH": "/usr/bin:/bin", "HOME": folder}

        def run(*command: object) -> str:
            words = [str(word) for word in command]
            done = subprocess.run(
                words, cwd=home, env=environment, check=True, stdout=subprocess.PIPE, encoding="utf-8"
            )
            return done.stdout

        run(scripts / "python", "-m", "pip", "install", "--quiet", *sys.argv[2:], wheel)
        refrain = scripts / "refrain"
        print(run(refrain, "--version").strip())
        run(refrain, "init", "first", "--with", "mask")
        run(refrain, "run", "first/workflow.yaml", "--quiet")
        run(scripts / "python", "-c", INSIDE)

        share = home / "env" / "share"
        pages = sorted(page.name for page in (share / "man" / "man1").iterdir())
        assert {"refrain.1", "refrain-run.1", "refrain-export.1"} <= set(pages), pages
        for completion in [
            "bash-completion/completions/refrain",
            "zsh/site-functions/_refrain",
            "fish/vendor_completions.d/refrain.fish",
        ]:
            assert "export" in (share / completion).read_text(), completion
        licences = list((home / "env").glob("**/refrain_workflow-*.dist-info/licenses/LICENSE-*"))
        assert len(licences) == 2, licences
    print(f"{wheel.name}: installed, ran, read; {len(pages)} manual pages")


if __name__ == "__main__":
    main()
