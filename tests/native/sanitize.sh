#!/usr/bin/env bash
# The native core under AddressSanitizer and UBSan: builds it in a directory of its own, proves that a planted bug of each
# kind is caught there, feeds the C functions with random inputs (fuzz.c), then runs tests/native. Warnings are errors.
# Needs gcc with its sanitizer runtimes.
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-$(command -v "$root/.venv/bin/python" || command -v python3)}
compiler=${CC:-gcc}
work=$(mktemp -d "${TMPDIR:-/tmp}/fetcher-sanitize.XXXXXX")
trap 'rm -rf "$work"' EXIT

say() { printf 'sanitize: %s\n' "$*"; }

runtime() {
    local path
    path=$("$compiler" -print-file-name="$1")
    # A compiler that does not find a file answers with its bare name.
    [[ $path == /* ]] || { say "$compiler has no $1; hint: on Debian it comes with gcc" >&2; exit 1; }
    printf '%s' "$path"
}
preload="$(runtime libasan.so) $(runtime libubsan.so)"

# Leaks are the interpreter's own at exit. PYTHONMALLOC=malloc puts a red zone around each bytes object.
sanitized() {
    env LD_PRELOAD="$preload" ASAN_OPTIONS=detect_leaks=0:abort_on_error=0:allocator_may_return_null=1 \
        UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 PYTHONMALLOC=malloc "$@"
}

say "building a copy"
mkdir "$work/copy" "$work/copy/tests"
cp -r "$root/fetcher" "$work/copy/"
cp -r "$root/tests/native" "$work/copy/tests/"
cp "$root/setup.py" "$work/copy/"
find "$work/copy" \( -name '*.so' -o -name '__pycache__' -o -path '*/_native/*.c' ! -path '*/core/*' \) -prune -exec rm -rf {} +
flags=$(cd "$work/copy" && "$python" -c 'import runpy; print(*runpy.run_path("setup.py", run_name="flags")["SANITIZE"])')
(
    cd "$work/copy"
    CC=$compiler FETCHER_BUILD_SANITIZE=1 FETCHER_BUILD_WERROR=1 FETCHER_BUILD_REQUIRE_NATIVE=1 \
        "$python" setup.py build_ext --inplace >"$work/build.log" 2>&1
) || { cat "$work/build.log" >&2; exit 1; }

say "planting bugs"
cat >"$work/planted.c" <<'C'
#include <stddef.h>
unsigned char read_one_past(const unsigned char *data, size_t bytes) { return data[bytes + 33]; }
int shift_too_far(int bits) { return 1 << bits; }
C
# shellcheck disable=SC2086  # the flags are words
"$compiler" -shared -fPIC $flags -o "$work/planted.so" "$work/planted.c"
caught() {
    if sanitized "$python" -c "import ctypes; $2" "$work/planted.so" >"$work/planted.log" 2>&1; then
        say "the planted bug was not caught: $1" >&2
        exit 1
    fi
    grep -q "$3" "$work/planted.log" || { cat "$work/planted.log" >&2; say "no report of it: $1" >&2; exit 1; }
    say "caught: $1"
}
library='import sys; planted = ctypes.CDLL(sys.argv[1])'
caught "a read past a bytes object" "$library; planted.read_one_past(bytes(4096), ctypes.c_size_t(4096))" \
    "heap-buffer-overflow"
caught "a shift too far" "$library; planted.shift_too_far(40)" "runtime error: shift exponent 40"

# Seeded and bounded: FUZZ_SEED=… FUZZ_CASES=… for other ones.
say "fuzzing the C core"
# shellcheck disable=SC2086  # the flags are words
"$compiler" -std=gnu11 $flags -Wall -Wextra -Werror -pthread -D_FILE_OFFSET_BITS=64 -I "$work/copy/fetcher/_native/core" \
    "$root/tests/native/fuzz.c" "$work"/copy/fetcher/_native/core/*.c -o "$work/fuzz"
UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 "$work/fuzz" "${FUZZ_SEED:-1}" "${FUZZ_CASES:-20000}"

say "running tests/native"
cat >"$work/copy/pytest.ini" <<'INI'
[pytest]
addopts = --import-mode=importlib -p no:cacheprovider
pythonpath = .
filterwarnings = error
markers = needs(*what): judged by the project's own conftest; here the core was just built
INI
cd "$work/copy"
# Tests that build have the compiler under the sanitizers' preload: they are run elsewhere.
sanitized FETCHER_NATIVE= "$python" -m pytest -q -c pytest.ini tests/native --ignore tests/native/test_build.py \
    --ignore tests/native/test_wheel.py -p no:xdist -p no:randomly "$@"
sanitized "$python" - <<'PY'
from fetcher import _native

print("sanitize: clean, core under test:", _native.describe())
assert _native.ACTIVE == "native"
PY
