# Start-up file of a persistent shell; KEY and NONCE are filled in by the host.
# The terminal is ours already (setsid --ctty); from here on commands come from the pipe.
# What it says beside the output of commands is for nobody.
exec <"/run/sandbox-lite/KEY/command" 2>/dev/null
PS1= PS2= PS0=
unset HISTFILE MAILCHECK PROMPT_COMMAND
set +o history
shopt -u checkwinsize
# a failed `exec` ends a shell that reads a file
shopt -s execfail
# `time` is a keyword: no function, alias or `enable -n` of a command can take its place, and what
# it prints is TIMEFORMAT. With xtrace on, noise stands before the mark; the host searches for it.
__sbx_status() {
  __sbx_format=${TIMEFORMAT-$'\nreal\t%3lR\nuser\t%3lU\nsys\t%3lS'}
  TIMEFORMAT=$'\1'"$2 $1 ${PWD//%/%%}"$'\2'
  { time [[ 1 ]]; } 2>/run/sandbox-lite/KEY/status
  TIMEFORMAT=$__sbx_format
  return "$1"
}
__sbx_state() {
  __sbx_code=$?
  {
    declare -p
    declare -f
    alias -p
    umask -p
    trap -p
    printf '__sbx_options %s %s\ncd -- %q\n#NONCE %s\n' \
      "$SHELLOPTS" "$BASHOPTS" "$PWD" "$__sbx_code"
  } >/run/sandbox-lite/KEY/state
  return "$__sbx_code"
}
# Told by two variables: bash writes each line by itself, and lists of all options have eighty.
__sbx_options() {
  local IFS=: name
  for name in $SHELLOPTS; do [[ :$1: == *:"$name":* ]] || set +o "$name"; done
  for name in $1; do [[ :$SHELLOPTS: == *:"$name":* ]] || set -o "$name"; done
  for name in $BASHOPTS; do [[ :$2: == *:"$name":* ]] || shopt -u "$name"; done
  for name in $2; do [[ :$BASHOPTS: == *:"$name":* ]] || shopt -s "$name"; done
}
readonly -f __sbx_status __sbx_state __sbx_options
trap '__sbx_state; exit "$__sbx_code"' EXIT
[[ ! -s /run/sandbox-lite/KEY/restore ]] || . /run/sandbox-lite/KEY/restore >/dev/null 2>&1 </dev/null
# errexit ended the last shell; TMOUT would end this one while it waits for us
set +o errexit
unset TMOUT
__sbx_status 0 0
