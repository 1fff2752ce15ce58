#!/bin/sh
# Installs Dragoman with its server into a folder of its own: this tree's wheel, and of everything else exactly what uv.lock
# names, checked against its hashes. The Containerfile runs it, people on plain machines do, and so does `make wheel-test`.
#
#     deploy/build.sh /opt/dragoman
#     /opt/dragoman/bin/dragoman --version
set -eu

[ $# = 1 ] || { echo "usage: deploy/build.sh FOLDER" >&2; exit 2; }
[ ! -e "$1" ] || { echo "deploy/build.sh: $1 is there already" >&2; exit 1; }
mkdir -p "$(dirname "$1")"
target=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export UV_PYTHON_DOWNLOADS=never

.ci/uv
uv=$PWD/.build/uv/bin/uv
"$uv" build --quiet --wheel --out-dir "$work"
wheel=$(ls "$work"/*.whl)
"$uv" export --quiet --frozen --no-dev --no-emit-project --extra server >"$work/requirements.txt"

"$uv" venv --quiet "$target"
"$uv" pip install --quiet --python "$target/bin/python" --require-hashes --requirement "$work/requirements.txt"
# Without an index: whatever the wheel asks for and uv.lock does not have is an error.
"$uv" pip install --quiet --python "$target/bin/python" --no-index "$wheel[server]"
"$uv" pip check --quiet --python "$target/bin/python"
"$target/bin/dragoman" --version
