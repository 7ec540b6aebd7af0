#!/usr/bin/env bash
# The one door: makes .venv beside this file once, then runs a command where the caller stands.
if [ -z "${BASH_VERSION:-}" ]; then
    echo "run.sh: this is for bash, give the same command with it: bash run.sh digits" >&2
    exit 2
fi
set -euo pipefail

# Of what is inherited only what docs/machines.md lists reaches Python, pip and the checks.
unset BASH_ENV CDPATH CI PY_COLORS __PYVENV_LAUNCHER__
for name in "${!PYTHON@}" "${!PIP_@}" "${!PYTEST_@}" "${!HYPOTHESIS_@}" "${!RUFF_@}" "${!MS_@}" \
    "${!MINDSPORE_@}" "${!GLOG_@}" "${!ONEDNN_@}" "${!DNNL_@}" "${!MPL@}"; do
    case "$name" in  # where pip finds packages is the user's to say
        PIP_*INDEX* | PIP_*CERT | PIP_*CACHE_DIR | PIP_*TIMEOUT | PIP_FIND_LINKS | PIP_TRUSTED_HOST | \
            PIP_PROXY | PIP_RETRIES | PIP_CONFIG_FILE | PIP_KEYRING_PROVIDER) ;;
        *) unset "$name" ;;
    esac
done
# Over a file of pip's settings.
export PIP_USER=0 PIP_DRY_RUN=0 PIP_NO_DEPS=0 PIP_REQUIRE_HASHES=0 PIP_CONSTRAINT=/dev/null

file="${BASH_SOURCE[0]}"
while [[ -L "$file" ]]; do  # links may have led here
    link="$(readlink -- "$file")"
    [[ "$link" == /* ]] || link="$(dirname -- "$file")/$link"
    file="$link"
done
root="$(cd -- "$(dirname -- "$file")" && pwd -P)"
venv="${FPL_VENV:-$root/.venv}"
[[ "$venv" == /* ]] || venv="$PWD/$venv"
python="$venv/bin/python"
stamp="$venv/installed"  # sha256 of the requirements that are fully installed
requirements="$root/requirements.txt"

usage() {
    cat <<'TEXT'
usage: ./run.sh COMMAND [OPTIONS]

  digits   train FPL on MNIST, USPS, SVHN, SYN             5 minutes on 2 cores; with --paper very long
  office   train FPL on Office-Caltech10 (--data DIR)      5 minutes on 2 cores; with --paper very long
  folder   train FPL on your own domains (--data DIR)      as long as their number of images wants
  predict  runs/NAME IMAGE ...: the class of each, and the cluster prototype that is nearest to it
  compare  TASK: all methods of Table 2                    24 runs (8 methods, 3 seeds); goes on where it stopped
  ablate   TASK: FPL without its parts                     36 runs (12 variants, 3 seeds); goes on likewise
  report   [DIR ...]: the HTML report of finished runs     seconds
  repeat   runs/NAME: train it again, compare the bytes    as long as the run
  check    FILE: judge its functions of FPL, see --help     seconds to minutes
  check-device  does MindSpore compute right here           a minute; a run by --device GPU begins with it
  lesson   draw the pictures of docs/lesson.md              seconds
  bench    what training costs, as ratios (--torch too)    20 minutes on 2 cores that do nothing else
  test     ruff, then the tests                            minutes on 2 cores; --all adds the slow ones, --deep
                                                           takes them all with 10,000 examples each: hours
  mutants  faults in the mathematics, which tests must see  hours on one core; goes on where it stopped
  fetch    bring the published digit files to data/        minutes, as the connection allows
  flower   flower-superlink, flower-supernode or flwr: clients that keep their data, see docs/machines.md

./run.sh COMMAND --help lists the options. The first call installs the packages into .venv (about 2.8 GB, minutes).
FPL_PYTHON=/path/to/python chooses the Python (3.10, 3.11 or 3.12) that .venv is made from,
FPL_VENV=/path/to/folder another place for .venv.
TEXT
}

fail() {
    echo "run.sh: $1" >&2
    exit "${2:-2}"
}

# Debian ships Python without ensurepip, and venv fails half-way then. A Python that was built where
# the headers were missing lacks bz2, ctypes, ssl or zlib, which the packages need.
usable() {
    "$1" -I -c 'import sys, venv, ensurepip, bz2, ctypes, ssl, zlib
sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1
}

version() {
    "$1" -I -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null
}

# Without --clear: what is installed stays, whatever was wrong with the Python that it had.
venv_from() {
    version "$venv/bin/python" >/dev/null || rm -f -- "$venv"/bin/python*  # links to one that is gone
    "$1" -I -m venv "$venv"
}

make_venv() {
    if [[ -n "${FPL_PYTHON:-}" ]]; then
        usable "$FPL_PYTHON" ||
            fail "FPL_PYTHON is $FPL_PYTHON; it must be a Python 3.10, 3.11 or 3.12 with venv, ensurepip and bz2"
        venv_from "$FPL_PYTHON"
        return
    fi
    local candidate
    for candidate in python3.11 python3.12 python3.10 python3 python; do
        if usable "$candidate"; then
            venv_from "$candidate"
            return
        fi
    done
    command -v uv >/dev/null || fail "found no Python 3.10, 3.11 or 3.12 with venv \
(Debian, Ubuntu: apt install python3.11-venv); install one, or uv, or set FPL_PYTHON"
    uv venv -q --allow-existing --seed --python 3.11 "$venv" >&2
}

check_venv() {
    local have
    have="$(version "$python")" || return 0  # none yet, or broken: make_venv
    case "$have" in
        3.10 | 3.11 | 3.12) ;;
        *) fail "$venv holds Python $have; it must be 3.10, 3.11 or 3.12: move it away and call again" ;;
    esac
    if [[ -n "${FPL_PYTHON:-}" && "$(version "$FPL_PYTHON")" != "$have" ]]; then
        fail "$venv holds Python $have, FPL_PYTHON is $FPL_PYTHON: \
unset FPL_PYTHON, or let FPL_VENV name another folder"
    fi
}

wanted() {
    "$python" -I -c 'import hashlib, sys
print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())' "$requirements"
}

installed() {
    [[ -f "$stamp" ]] && [[ "$(wanted 2>/dev/null)" == "$(<"$stamp")" ]]
}

pip() {
    "$python" -I -m pip install -q --disable-pip-version-check -r "$1" >&2
}

# The stamp goes before anything changes and comes back last: an interrupted install never counts.
install() {
    [[ -f "$requirements" ]] ||
        fail "$requirements is missing; run.sh stays in its checkout, a link to it may stand anywhere"
    check_venv
    installed && return
    mkdir -p -- "$venv" 2>/dev/null && [[ -w "$venv" ]] ||
        fail "$venv cannot be written; FPL_VENV=/path/to/folder chooses another place for it"
    if command -v flock >/dev/null; then
        exec 9>"$venv/lock"
        flock 9 || true  # some file systems have no locks
        installed && { exec 9>&-; return; }  # another call did it meanwhile
    fi
    rm -f -- "$stamp"
    if ! "$python" -I -m pip --version >/dev/null 2>&1; then
        echo "run.sh: making $venv" >&2
        make_venv
    fi
    echo "run.sh: installing ${requirements##*/} into $venv (once, about 3 GB, minutes)" >&2
    pip "$requirements" ||
        fail "the packages could not be installed, see above; call again to go on" 1
    "$python" -I -c 'from importlib.metadata import version; version("mindspore")' 2>/dev/null ||
        fail "pip installed elsewhere than into $venv; look for target or prefix in its settings: \
$python -m pip config list" 1
    wanted >"$stamp.part"
    mv -- "$stamp.part" "$stamp"
    [[ ! -e "$venv/lock" ]] || exec 9>&-  # or the training would hold the lock
}

# -I: no package called lab or fpl on PYTHONPATH or in the caller's folder takes the place of these.
lab() {
    exec "$python" -I "$root/lab/__main__.py" "$@"
}

command="${1:-help}"
[[ $# -eq 0 ]] || shift
case "$command" in
    help | -h | --help)
        usage
        ;;
    digits | office | folder | predict | compare | ablate | report | repeat | check | check-device | lesson | bench | fetch)
        install
        lab "$command" "$@"
        ;;
    mutants)
        install
        "$python" -I -c 'import cosmic_ray' 2>/dev/null ||
            pip "$root/requirements-mutants.txt" ||
            fail "cosmic-ray could not be installed, see above; call again to go on" 1
        lab "$command" "$@"
        ;;
    flower)
        case "${1:-}" in
            flower-superlink | flower-supernode | flwr) ;;
            *) fail "flower is followed by '${1:-}'; it must be flower-superlink, flower-supernode or flwr, \
with their options: see docs/machines.md" ;;
        esac
        venv="$venv-flower"
        python="$venv/bin/python" stamp="$venv/installed" requirements="$root/requirements-flower.txt"
        install
        # Its programs name the folder that they were installed in, which may have been moved.
        "$python" -I "$root/lab/shell/mend.py" "$venv"
        export PATH="$venv/bin:$PATH" FLWR_HOME="${FLWR_HOME:-$root/.flower}"
        # Flower's own programs import lab/many/flower, and fpl.py, from here.
        export PYTHONPATH="$root"
        # A proxy cannot reach what is on this machine itself.
        export NO_PROXY="${NO_PROXY:+$NO_PROXY,}127.0.0.1,localhost" \
            no_proxy="${no_proxy:+$no_proxy,}127.0.0.1,localhost"
        # Nothing goes to Flower's makers.
        export FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
        # flwr loads protobuf first, and MindSpore 2.9.0 fails with its compiled form.
        export PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python
        if [[ ! -e "$FLWR_HOME/config.toml" ]]; then
            mkdir -p -- "$FLWR_HOME"
            printf '%s\n' '[superlink]' 'default = "here"' '[superlink.here]' \
                'address = "127.0.0.1:8000"' 'insecure = true' >"$FLWR_HOME/config.toml"
        fi
        exec "$@"
        ;;
    test)
        install
        cd -- "$root"
        options=(-n auto --maxprocesses 4 --dist loadfile)  # a worker for each core, of 1 to 2 GB
        which=(-m "not slow")
        args=()
        for arg in "$@"; do
            case "$arg" in
                --all) which=() ;;
                --deep) export HYPOTHESIS_PROFILE=deep; which=() options=() ;;
                *) args+=("$arg") ;;
            esac
        done
        "$python" -m ruff check .
        options+=(${which[@]+"${which[@]}"} ${args[@]+"${args[@]}"})
        exec "$python" -m pytest ${options[@]+"${options[@]}"}
        ;;
    *)
        fail "unknown command '$command'; it must be digits, office, folder, predict, compare, \
ablate, report, repeat, check, check-device, lesson, bench, flower, test, mutants or fetch: ./run.sh lists them"
        ;;
esac
