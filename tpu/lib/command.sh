# How commands are shown and run. Every script sources this first; `dry_run` is set by lib/options.sh.
# Variables go from file to file, which the checker does not see:
# shellcheck shell=bash disable=SC2034,SC2154

# Commands are printed here even where a function's own output is captured.
exec 3>&1

die() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 2
}

# What happens meanwhile; nothing happens in a dry run.
note() { [[ -n $dry_run ]] || printf '# %s\n' "$*" >&2; }

# The words as one line that a shell reads back as the same words.
quoted() {
  local word line='' q="'\\''"
  for word in "$@"; do
    case $word in
      '' | *[!A-Za-z0-9_./:=,@%+-]*) word="'${word//\'/$q}'" ;;
    esac
    line+="${line:+ }$word"
  done
  printf '%s\n' "$line"
}

# Runs the command, or with --dry-run prints it.
run() {
  if [[ -n $dry_run ]]; then
    quoted "$@" >&3
  else
    note "$(quoted "$@")"
    "$@"
  fi
}

# Asks a question and gives its answer. First argument: the answer that --dry-run assumes.
ask() {
  if [[ -n $dry_run ]]; then
    quoted "${@:2}" >&3
    printf '%s\n' "$1"
  else
    insist "${@:2}"
  fi
}

# Does it, up to three times, until it succeeds. For what does no harm twice: a new host may not yet let anyone in.
insist() {
  local try
  for try in 1 2 3; do
    "$@" && return
    [[ $try == 3 ]] || pause
  done
  return 1
}

pause() { [[ -n $dry_run ]] || sleep "$opt_poll"; }
