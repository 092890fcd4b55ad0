#!/usr/bin/env bash
# Runs on every host of a pod, where setup.sh puts it: ~/host.sh. All it keeps is in ~/jaxalign.
#
#   bash host.sh setup | start COMMAND… | stop | status | log FROM_LINE | upload URL

set -euo pipefail
base=$HOME/jaxalign
# What `jaxalign train` ends with when it was interrupted, and when it waited for a host that is gone.
resume_code=75 orphaned_code=9

# absent | running | done | resume | orphaned | failed CODE | lost. Lost: it left no code, as when the machine was reset.
state() {
  local code
  if [[ ! -f $base/command ]]; then
    echo absent
  elif [[ -f $base/code ]]; then
    code=$(< "$base/code")
    case $code in
      0) echo "done" ;;
      "$resume_code") echo resume ;;
      "$orphaned_code") echo orphaned ;;
      *) echo "failed $code" ;;
    esac
  elif supervised; then
    echo running
  else
    echo lost
  fi
}

# A reset machine may have given the number to another process, hence the look at its name.
supervised() {
  local words
  [[ -f $base/supervisor ]] || return
  words=$(tr '\0' ' ' 2> /dev/null < "/proc/$(< "$base/supervisor")/cmdline") && [[ $words == *"host.sh supervise"* ]]
}

set_up() {
  if [[ $(state) == running ]]; then
    echo "an experiment is running: nothing was changed"
    return
  fi
  rm -rf "$base/source"
  mkdir -p "$base/source"
  tar -xzf "$HOME/jaxalign.tar.gz" -C "$base/source"
  if [[ ! -x $base/venv/bin/python ]]; then
    # The images of TPU VMs have another Python; uv finds a 3.11 or fetches one. Newer images protect their packages from
    # pip; the variable lifts that, and older ones do not know it.
    PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install -q --user uv
    python3 -m uv venv -q --seed --python 3.11 "$base/venv"
  fi
  # The constraints pin JAX and the libtpu that it was released with; the plans in configs/ were compiled with those of
  # Python 3.11, so that what was planned is what runs.
  "$base/venv/bin/python" -m pip install -q -c "$base/source/constraints/python3.11.txt" -e "$base/source[tpu]"
}

start() {
  local words
  words=$(printf '%q ' "$@")
  if [[ $(state) == running ]]; then
    [[ $words == "$(< "$base/command")" ]] && echo "already running" && return
    echo "another experiment is running; stop it first: $(< "$base/command")" >&2
    exit 1
  fi
  cd "$base/source"
  rm -f "$base/code" "$base/process"
  printf '%s\n' "$words" > "$base/command"
  export PATH=$base/venv/bin:$PATH PYTHONUNBUFFERED=1
  # Without it JAX would go on with the CPU where the TPU does not start.
  export JAX_PLATFORMS=tpu,cpu
  # Detached: the end of the connection does not reach it.
  setsid nohup bash "$HOME/host.sh" supervise "$@" >> "$base/run.log" 2>&1 < /dev/null &
  echo $! > "$base/supervisor"
}

# Runs the command and leaves its exit code behind.
supervise() {
  local code=0
  "$@" &
  echo $! > "$base/process"
  wait $! || code=$?
  echo "$code" > "$base/code.new"
  mv "$base/code.new" "$base/code"
}

stop() {
  [[ $(state) == running ]] || return 0
  kill -TERM "$(cat "$base/process" 2> /dev/null || cat "$base/supervisor")"
}

case ${1:-} in
  setup) set_up ;;
  start) start "${@:2}" ;;
  supervise) supervise "${@:2}" ;;
  stop) stop ;;
  status) echo "jaxalign-host $(hostname) $(state)" ;;
  # A bounded piece, so that a watcher that comes late is not flooded.
  log) [[ ! -f $base/run.log ]] || sed -n "$2,$(($2 + 499))p" "$base/run.log" ;;
  upload) gcloud storage cp "$base/run.log" "$2/$(hostname).log" ;;
  *) sed -n '2,/^$/p' "$0" && exit 2 ;;
esac
