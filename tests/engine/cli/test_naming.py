"""What a service is called goes into a snapshot and its file's name: people should know it, and it must tell no secret."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.cli.naming import name_of, name_of_process

SECRET = "hunter2hunter2"
PROGRAMS = ["python3", "node", "ruby", "perl", "php", "bash", "sh", "java", "deno", "bun", "shop"]
KNOWN = {
    "./payment --port 1": "payment",
    "/opt/shop/payment.sh x": "payment",
    "./shop hunter2": "shop",
    "python payment.py": "payment",
    "python3.11 -u payment.py --key hunter2": "payment",
    "python -W ignore app.py": "app",
    "python -Wignore -X dev app.py": "app",
    "python app": "app",
    "python -m shop.payment": "payment",
    "python -um shop.payment": "payment",
    "python -mshop.payment": "payment",
    "python -c 'import x' hunter2": "python",
    "python -Bc 'import x' hunter2": "python",
    "python -c'import x' hunter2": "python",
    "python": "python",
    "node -r dotenv/config app.js": "app",
    "node --require=x --import ./instrument.mjs app.js": "app",
    "node --inspect app.js": "app",
    "node -e 'x' hunter2": "node",
    "node --eval 'x' hunter2": "node",
    "node -pe x hunter2": "node",
    "ruby -I lib -rjson app.rb": "app",
    "perl -lne 'print' hunter2": "perl",
    "perl -i.bak -pe x hunter2": "perl",
    "php -r 'echo 1;' hunter2": "php",
    "php -d key=hunter2 app.php": "app",
    "java -Dpassword=hunter2 -jar build/shop.jar": "shop",
    "deno run --allow-net app.ts": "app",
    "bun run app.ts": "app",
    "bash deploy.sh hunter2": "deploy",
    "sh -e deploy.sh": "deploy",
    "bash -o pipefail -x deploy": "bash",
    "bash -lc 'API_KEY=hunter2hunter2 python app.py'": "app",
    "sh -ec 'curl -u bob:hunter2 https://x/y.json'": "curl",
    "bash -c 'A=\"b c\" B=$(cat hunter2) exec ./shop'": "cat",
    "bash -c 'cd /app && export KEY=hunter2; python -m shop'": "shop",
    "bash -c 'if true; then API_KEY=hunter2 ./shop; fi'": "shop",
    "bash -c '${KEY:-hunter2} x'": "bash",
    "bash -c 'KEY=hunter2'": "bash",
    "bash -c '\"unended hunter2'": "bash",
    "bash -c": "bash",
    "bash -c '\"$@\"' - hunter2": "bash",
    "sh -c \"sh -c 'K=hunter2 ./shop'\"": "shop",
    "python KEY=hunter2": "python",
    "python https://u:hunter2@x/y": "python",
}


@pytest.mark.parametrize("command", KNOWN)
def test_what_commands_are_called(command: str) -> None:
    assert name_of(shlex.split(command)) == KNOWN[command]


OPTIONS = ["-W", "-X", "-r", "-I", "-d", "-e", "-c", "-lc", "--token", "-u", "-o", "-p", "--", "-cp", "-m", "--unknown"]
TELLING = ["KEY=%s", "--key=%s", "u:%s", "https://u:%s@h/x", "K=%s python app.py", "curl -u b:%s h"]


@given(st.sampled_from(PROGRAMS), st.lists(st.sampled_from([*OPTIONS, *[each % SECRET for each in TELLING]]), max_size=6))
def test_no_name_has_an_assignment_or_a_credential(program: str, arguments: list[str]) -> None:
    assert SECRET not in name_of([program, *arguments])


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_secret_after_an_option_is_no_name(program: str) -> None:
    """But for the program that is a shell's text, or a module."""
    for option in OPTIONS:
        if not (option == "--" or (option == "-m" and "python" in program) or (option in ("-c", "-lc", "-cp") and "sh" in program)):
            assert SECRET not in name_of([program, option, SECRET]), option


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (b"python\0app.py\0", "app"),
        (b"nginx: master process /usr/sbin/nginx -g hunter2\0\0", "nginx"),
        (b"shop --password hunter2", "shop"),
        (b"/opt/my shop/run\0--x\0", "run"),
        (b"", ""),
        (b"\0\0", ""),
    ],
)
def test_what_processes_are_called(line: bytes, name: str) -> None:
    """Many write a title over their arguments, as one word (setproctitle)."""
    assert name_of_process(line) == name
