"""Compiles many C programs at once, and compares them with their integer networks."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from all_forms import CCase, Difference

FLAGS = ("-std=c99", "-O0", "-Wall", "-Wextra", "-Werror")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
PLAIN = "#define QATLAB_PLAIN\n"  # of every other one: without vectors
HEAD = """\
#define QATLAB_NO_MAIN
{plain}#define qatlab_infer qatlab_infer_{i}
"""
TAIL = """
void run_{i}(const uint8_t *image, double *outputs);
void run_{i}(const uint8_t *image, double *outputs)
{{
    static qatlab_number found[QATLAB_CLASSES];
    qatlab_infer(image, found);
    for (int k = 0; k < QATLAB_CLASSES; ++k) {{
        outputs[k] = (double)found[k] * QATLAB_OUTPUT_UNIT;
    }}
}}
"""
MAIN = """\
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
typedef void (*run_function)(const uint8_t *, double *);
{declarations}
static const run_function runs[] = {{{runs}}};
static uint8_t image[1 << 16];
static double outputs[1 << 16];
int main(int argc, char **argv)
{{
    (void)argc;
    const size_t bytes = (size_t)atol(argv[2]), count = (size_t)atol(argv[3]);
    while (fread(image, 1, bytes, stdin) == bytes) {{
        runs[atol(argv[1])](image, outputs);
        fwrite(outputs, sizeof outputs[0], count, stdout);
    }}
    return 0;
}}
"""


def differences(
    cases: Sequence[CCase], folder: Path, flags: Sequence[str] = ()
) -> list[tuple[CCase, Difference]]:
    """Compile and run programs, and return those that are not right, to the last bit.

    Args:
        cases: the programs.
        folder: to compile in.
        flags: further ones of the compiler.
    """
    found: list[tuple[CCase, Difference]] = []
    objects: list[int] = []
    for i, case in enumerate(cases):
        text = HEAD.format(i=i, plain=PLAIN * (i % 2)) + case.source + TAIL.format(i=i)
        (folder / f"n{i}.c").write_text(text)
    if not _compiled(folder, range(len(cases)), flags):
        for i, case in enumerate(cases):
            if error := _error(folder, [i], flags):
                found.append((case, Difference("c: does not compile", error[-300:])))
            else:
                objects.append(i)
    else:
        objects = list(range(len(cases)))
    if not objects:
        return found
    (folder / "main.c").write_text(
        MAIN.format(
            declarations="\n".join(f"void run_{i}(const uint8_t *, double *);" for i in objects),
            runs=", ".join(f"run_{i}" for i in objects),
        )
    )
    files = ["main.c", *(f"n{i}.o" for i in objects)]
    subprocess.run(["cc", *FLAGS, *flags, *files, "-o", "all"], cwd=folder, check=True)
    for number, i in enumerate(objects):
        case = cases[i]
        pixels = case.images.numpy().astype(np.uint8)
        words = [str(number), str(pixels[0].size), str(case.outputs.shape[1])]
        done = subprocess.run(
            [folder / "all", *words], input=pixels.tobytes(), capture_output=True, cwd=folder
        )
        if done.returncode:
            error = done.stderr.decode(errors="replace")[:300]
            found.append((case, Difference(f"c: ends with {done.returncode}", error)))
            continue
        expected = case.outputs.numpy()
        outputs = np.frombuffer(done.stdout).reshape(-1, expected.shape[1])
        same = outputs.shape == expected.shape and np.array_equal(
            outputs.view(np.int64), np.ascontiguousarray(expected).view(np.int64)
        )
        if not same:
            apart = abs(outputs - expected).max() if outputs.shape == expected.shape else "?"
            found.append((case, Difference("c: outputs", f"apart by {apart}")))
    return found


def _compiled(folder: Path, numbers: Sequence[int], flags: Sequence[str]) -> bool:
    return not _error(folder, numbers, flags)


def _error(folder: Path, numbers: Sequence[int], flags: Sequence[str]) -> str:
    files = [f"n{i}.c" for i in numbers]
    command = ["cc", *FLAGS, *flags, "-c", *files]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return done.stderr or "no error was printed" if done.returncode else ""
