"""Programs that export functions of OpenSSL's, for being put in each other's place."""

from __future__ import annotations

import subprocess
from pathlib import Path

SOURCE = """
#include <stdio.h>
%s
int SSL_read(void *ssl, void *buffer, int length) { return length + 1; }
int SSL_write(void *ssl, const void *buffer, int length) { return length * 2; }
int main(void)
{
	return printf("%d\\n", SSL_write(0, 0, SSL_read(0, 0, in_front(4)))) < 0;
}
"""
IN_FRONT = "int in_front(int number) { return number; }"
MORE = "int more(int number) { int twice = number * 2; return twice * 3 - number * 5; }"
"""What it is called with. So where the first program's functions begin, the second one is in the midst of what it executes."""
SAYS = "10\n"


def programs(folder: Path) -> tuple[Path, Path]:
    """Two that say `SAYS`, with the functions in different places."""
    made = []
    for name, front in (("first", IN_FRONT), ("second", f"{MORE} {IN_FRONT.replace('return number', 'return more(number)')}")):
        source = folder / f"{name}.c"
        source.write_text(SOURCE.replace("%s", front, 1))
        made.append(folder / name)
        subprocess.run(["gcc", "-O0", "-rdynamic", "-o", str(made[-1]), str(source)], check=True)
    return made[0], made[1]
