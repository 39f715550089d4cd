# What the walks share; each begins with `. common.sh`. They are bash, run in an empty folder, and end at the first
# command that fails. 77 is the exit code of a walk that this machine cannot go.
set -euo pipefail

# known PATH EXPRESSION: what `ofa-tvm info PATH` says, such as 'facts["space"]'
known() {
    ofa-tvm info "$1" --json | python3 -c 'import json, sys; print(eval(sys.argv[1], json.load(sys.stdin)))' "$2"
}

# told FILE EXPRESSION: the same of what a command with --json wrote to FILE
told() {
    python3 -c 'import json, sys; print(eval(sys.argv[1], json.load(open(sys.argv[2]))))' "$2" "$1"
}

# expect WHAT WANTED FOUND
expect() {
    if [ "$2" != "$3" ]; then
        echo "walk: $1: expected $2, found $3" >&2
        exit 1
    fi
}

# exits CODE COMMAND...: the command has to end with that code
exits() {
    local wanted=$1 code=0
    shift
    "$@" || code=$?
    expect "exit code of $*" "$wanted" "$code"
}

skip() {
    echo "walk: skipped: $*" >&2
    exit 77
}

# project FOLDER: a trained project, a copy of what PROJECT names, else the quickstart's (a few minutes)
project() {
    if [ -n "${PROJECT:-}" ]; then
        cp -r "$PROJECT" "$1"
    else
        ofa-tvm quickstart -o "$1"
    fi
}
