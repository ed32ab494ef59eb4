# What the scripts of this folder share: a folder of their own, environments, parts that are timed.
export CI=true PYTHONUNBUFFERED=1 NO_MKDOCS_2_WARNING=1 PIP_QUIET=1 PIP_DISABLE_PIP_VERSION_CHECK=1
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
failed=0

# python_of VERSION: one that runs, on the path or among pyenv's.
python_of() {
  local python
  for python in "python$1" "$HOME"/.pyenv/versions/"$1"*/bin/"python$1"; do
    if "$python" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" 2>/dev/null; then
      echo "$python"
      return
    fi
  done
  return 1
}

# part NAME COMMAND...: runs it, and remembers that it failed.
part() {
  local name="$1"
  shift
  echo "== $name"
  SECONDS=0
  if "$@"; then
    echo "== $name: passed in $SECONDS s"
  else
    echo "== $name: FAILED in $SECONDS s"
    failed=1
  fi
}

# Modules are compiled when they are first imported, so most never are (--no-compile).
# set_up PYTHON FOLDER EXTRAS
set_up() {
  "$1" -m venv "$2" && "$2/bin/pip" install --no-compile -e ".[$3]"
}

# For tests/parity. Without dependencies: they would bring another PyTorch. torchvision's compiled
# operators belong to that other one, and are not needed.
set_up_torch() {
  "$1/bin/pip" install --no-compile torch==2.13.0 &&
    "$1/bin/pip" install --no-compile --no-deps torchvision timm captum &&
    rm -f "$1"/lib/python*/site-packages/torchvision/*.so
}

# For tests/parity/test_quantus.py. Without dependencies: they would bring another PyTorch, too.
set_up_quantus() {
  "$1/bin/pip" install --no-compile --no-deps quantus==0.6.0 &&
    "$1/bin/pip" install --no-compile pandas scikit-learn opencv-python-headless cachetools tqdm
}

# find_chromium: the path of one that starts, the machine's own.
find_chromium() {
  local name
  for name in ${FGJAX_CHROMIUM:-chromium chromium-browser google-chrome google-chrome-stable}; do
    type -P "$name" >/dev/null &&
      timeout 60 "$name" --headless --no-sandbox --disable-gpu --dump-dom about:blank \
        >/dev/null 2>&1 && type -P "$name" && return
  done
  return 1
}

# For tests/report/test_in_browser.py. Only root can bring one, from the system's own packages; an
# older release of them may lie in the list already, so that the list is renewed first.
set_up_browser() {
  find_chromium && return
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    timeout 60 apt-get update -qq >&2
    timeout 180 apt-get install -y -qq --no-install-recommends chromium >&2
  fi
  find_chromium
}

# start_browser: in the background; use_browser waits for it.
start_browser() {
  set_up_browser >"$folder/browser" 2>"$folder/browser.log" &
  browser=$!
}

use_browser() {
  if wait "$browser"; then
    FGJAX_CHROMIUM="$(tail -1 "$folder/browser")"
    export FGJAX_CHROMIUM FGJAX_BROWSER=1
  else
    tail -3 "$folder/browser.log"
    echo "NOTE: no Chromium here: the page was NOT TRIED IN A BROWSER (FGJAX_CHROMIUM names one)"
  fi
}
