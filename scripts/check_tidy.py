#!/usr/bin/env python3
"""Runs clang-tidy (.clang-tidy) on our own sources; tests are not among them.

    scripts/check_tidy.py                       # all, with build/release/compile_commands.json
    scripts/check_tidy.py ps/table.cc           # only these
    scripts/check_tidy.py --build build/debug --jobs 4

A file that passed is not checked again until something changes that its result hangs on: the file
and the repository's headers it includes, .clang-tidy, the arguments, clang-tidy, the wheels. Passes
are remembered in ${SAVIOR_CACHE:-${XDG_CACHE_HOME:-~/.cache}/savior}/tidy.

Nearly all of clang-tidy's time goes into other people's headers, which it parses and searches anew
for every file. So files with the same arguments are checked in bundles, as one source that includes
them all. Files that define the same name for themselves come into different bundles; where that is
not enough and a bundle does not compile, its files are checked one by one.
"""

import argparse
import collections
import concurrent.futures
import dataclasses
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("common", "ps", "worker", "launcher", "serving")
SKIPPED = 77  # what tests/style/CMakeLists.txt tells CTest to call a skip
PASSES_KEPT_S = 30 * 86400

INCLUDE = re.compile(rb'^[ \t]*#[ \t]*include[ \t]*["<]([^">]+)[">]', re.MULTILINE)
# What a file defines at namespace scope, which our style does not indent: constants, types,
# functions (not members of a class).
NAME = re.compile(
    rb"^(?:(?:inline |static )?const(?:expr)? [^=({;]*?\b(k[A-Z]\w*)"
    rb"|(?:struct|class|enum|enum class|using) (\w+)"
    rb"|[A-Za-z][^=(;#]*[ &*>](\w+)\()",
    re.MULTILINE,
)
FINDING = re.compile(r"^(?=\S+:\d+:\d+: (?:warning|error):)", re.MULTILINE)
NOT_COMPILED = "[clang-diagnostic-error"


@dataclasses.dataclass
class Source:
    path: Path
    arguments: tuple[str, ...]
    digest: str
    own_names: set[bytes]  # defined here and in no header of ours that it includes
    seen_names: set[bytes]  # own_names and those of the headers
    includes_torch: bool

    def clashes(self, other: "Source") -> bool:
        return not (
            self.own_names.isdisjoint(other.seen_names)
            and other.own_names.isdisjoint(self.seen_names)
        )


Bundle = list[Source]


def cache_folder() -> Path:
    cache = os.environ.get("SAVIOR_CACHE")
    if not cache:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "savior"
    return Path(cache) / "tidy"


def language_arguments(command: list[str]) -> tuple[str, ...]:
    """The arguments that decide what preprocessor and parser see, and none of the others.

    Clang understands neither GCC's precompiled header nor some of its warnings, and optimisation or
    sanitizers do not change the findings.
    """
    kept = []
    arguments = iter(command)
    for argument in arguments:
        if argument in ("-D", "-U", "-I", "-isystem", "-idirafter", "-include"):
            value = next(arguments)
            if not (argument == "-include" and "cmake_pch" in value):
                kept += [argument, value]
        elif argument.startswith(("-D", "-U", "-I", "-isystem", "-std=", "-m")):
            kept.append(argument)
    return tuple(kept)


def closure(path: Path, seen: dict[Path, bytes]) -> None:
    """Adds to `seen` the file and all files of the repository that it includes, with their text."""
    seen[path] = path.read_bytes()
    for name in INCLUDE.findall(seen[path]):
        for folder in (path.parent, ROOT):
            included = (folder / os.fsdecode(name)).resolve()
            if included.is_relative_to(ROOT) and included.is_file():
                if included not in seen:
                    closure(included, seen)
                break


def names(text: bytes) -> set[bytes]:
    return {name for match in NAME.finditer(text) for name in match.groups() if name}


def digest_of(parts: list[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()


def load_sources(build: Path, tidy_version: str) -> list[Source]:
    wheels = os.path.realpath(ROOT / ".venv")
    configuration = (ROOT / ".clang-tidy").read_bytes()
    sources = {}
    for entry in json.loads((build / "compile_commands.json").read_text()):
        path = Path(entry["directory"], entry["file"]).resolve()
        if not path.is_relative_to(ROOT) or path.relative_to(ROOT).parts[0] not in ROOMS:
            continue
        arguments = language_arguments(shlex.split(entry["command"]))
        files: dict[Path, bytes] = {}
        closure(path, files)
        # Without the path of this clone: another clone of the same sources has the same passes.
        setting = json.dumps([tidy_version, wheels, arguments]).replace(str(ROOT), "")
        parts = [setting.encode(), configuration]
        for file in sorted(files):
            parts += [str(file.relative_to(ROOT)).encode(), files[file]]
        header_names = set().union(*(names(files[file]) for file in files if file != path))
        own_names = names(files[path]) - header_names
        sources[path] = Source(
            path,
            arguments,
            digest_of(parts),
            own_names,
            own_names | header_names,
            any(b"<torch/" in text for text in files.values()),
        )
    return list(sources.values())


def make_bundles(sources: list[Source]) -> list[Bundle]:
    """The longest first, so that no core idles at the end."""
    bundles: dict[tuple[str, ...], list[Bundle]] = collections.defaultdict(list)
    for source in sorted(sources, key=lambda source: source.path):
        alike = bundles[source.arguments]
        for bundle in alike:
            if not any(source.clashes(other) for other in bundle):
                bundle.append(source)
                break
        else:
            alike.append([source])
    return sorted(
        (bundle for alike in bundles.values() for bundle in alike),
        key=lambda bundle: (any(source.includes_torch for source in bundle), len(bundle)),
        reverse=True,
    )


def check(bundle: Bundle, clang_tidy: str) -> tuple[bool, str, float]:
    """Whether clang-tidy has nothing to say, what it says, seconds."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="savior-tidy-") as folder:
        joined = Path(folder, "bundle.cc")
        # NOLINT: one of the checks is against including a .cc.
        joined.write_text("".join(f'#include "{source.path}"  // NOLINT\n' for source in bundle))
        rooms = f"^{re.escape(str(ROOT))}/({'|'.join(ROOMS)})/"
        done = subprocess.run(
            [clang_tidy, "--quiet", f"--config-file={ROOT}/.clang-tidy"]
            + [f"--header-filter={rooms}", str(joined), "--", *bundle[0].arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            errors="replace",
        )
    passed = done.returncode == 0 and not done.stdout.strip()
    said = next(filter(str.strip, (done.stdout, done.stderr)), f"status {done.returncode}")
    return passed, said, time.monotonic() - start


def named(bundle: Bundle) -> str:
    return " ".join(str(source.path.relative_to(ROOT)) for source in bundle)


def check_all(bundles: list[Bundle], clang_tidy: str, jobs: int, passes: Path) -> bool:
    """Prints each finding once, however many bundles include its header."""
    printed = set()
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        running = {pool.submit(check, bundle, clang_tidy): bundle for bundle in bundles}
        while running:
            future = next(concurrent.futures.as_completed(running))
            bundle = running.pop(future)
            passed, said, seconds = future.result()
            print(f"{seconds:.0f} s: {named(bundle)}", flush=True)
            if passed:
                for source in bundle:
                    (passes / source.digest).touch()
            elif len(bundle) > 1 and NOT_COMPILED in said:
                print("does not compile as one source: goes on one by one", flush=True)
                running |= {pool.submit(check, [source], clang_tidy): [source] for source in bundle}
            else:
                for finding in FINDING.split(said):
                    if finding not in printed:
                        printed.add(finding)
                        print(finding.rstrip(), flush=True)
    return not printed


def main() -> int:
    parser = argparse.ArgumentParser(description="Runs clang-tidy on our own sources.")
    parser.add_argument("--build", type=Path, default=ROOT / "build/release")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("files", nargs="*", type=Path, help="default: all")
    arguments = parser.parse_args()

    clang_tidy = shutil.which("clang-tidy")
    if clang_tidy is None:
        print("SKIPPED, nothing was checked: clang-tidy is not installed; run scripts/setup.sh")
        return SKIPPED
    version = subprocess.run([clang_tidy, "--version"], capture_output=True, text=True, check=True)
    sources = load_sources(arguments.build, version.stdout)
    if arguments.files:
        wanted = {file.resolve() for file in arguments.files}
        if unknown := wanted - {source.path for source in sources}:
            print("error: not a source of ours in compile_commands.json:", *sorted(unknown))
            return 2
        sources = [source for source in sources if source.path in wanted]
    if not sources:
        print(f"error: {arguments.build}/compile_commands.json names no source of ours")
        return 1

    passes = cache_folder()
    passes.mkdir(parents=True, exist_ok=True)
    due = []
    for source in sources:
        if (passes / source.digest).exists():
            (passes / source.digest).touch()
        else:
            due.append(source)
    start = time.monotonic()
    clean = check_all(make_bundles(due), clang_tidy, arguments.jobs, passes)
    for file in passes.iterdir():
        if time.time() - file.stat().st_mtime > PASSES_KEPT_S:
            file.unlink(missing_ok=True)
    print(
        f"{len(sources)} files: {len(sources) - len(due)} unchanged since they passed, "
        f"{len(due)} checked in {time.monotonic() - start:.0f} s"
    )
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main())
