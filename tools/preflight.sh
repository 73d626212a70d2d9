#!/bin/sh
# Names what a machine lacks, with the command that installs it, before pip fails with a page of text.
python=${1:-python3}
missing=0

say() {
    echo "missing: $1" >&2
    echo "  install it with: $2" >&2
    missing=1
}

if ! command -v "$python" >/dev/null 2>&1; then
    say "Python 3.11 or later ($python)" "apt-get install python3 python3-venv python3-dev   (macOS: brew install python@3.12)"
elif ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    say "Python 3.11 or later ($python is $("$python" --version 2>&1))" "apt-get install python3.11 python3.11-venv python3.11-dev, then: make PYTHON=python3.11 ..."
else
    "$python" -c 'import venv, ensurepip' 2>/dev/null || say "Python's venv module" "apt-get install python3-venv"
    header=$("$python" -c 'import sysconfig, os; print(os.path.join(sysconfig.get_paths()["include"], "Python.h"))')
    [ -f "$header" ] || say "Python's headers ($header)" "apt-get install python3-dev"
fi
command -v cc >/dev/null 2>&1 || say "a C compiler (cc)" "apt-get install gcc   (macOS: xcode-select --install)"
if command -v cc >/dev/null 2>&1; then
    echo '#include <gmp.h>' | cc -E - >/dev/null 2>&1 ||
        say "libgmp's headers (gmp.h)" "apt-get install libgmp-dev   (macOS: brew install gmp)"
fi
exit $missing
