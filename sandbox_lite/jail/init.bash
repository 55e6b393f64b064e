# Process 1 of a sandbox: starts shells and programs, says how they ended, reaps orphans.
# Requests come on stdin, one line each; reports leave on stdout. End of file ends the sandbox.
# A signal from inside that bash has a handler for has it begin anew as well, see the trap below.
C=/run/sandbox-lite
umask 022
declare -A child=() lost=()
while (($# > 1)); do
  child[$1]=$2 lost[$1]=-
  shift 2
done
exec 3<&0 4>&1 </dev/null >/dev/null
printf 'ready 0 %s\n' "$BASH_VERSION" >&4
exec 2>/dev/null
# Where no process can be made (a fork bomb under a limit) bash gives up a shell that no person
# types into, and with process 1 all would go. It begins anew in its own place instead: how the
# children of now will end stays unknown, but they live, and so do all files.
trap 'printf "started %s -\n" "$key" >&4
  words=()
  for key in "${!child[@]}"; do words+=("$key" "${child[$key]}"); done
  exec bash --noprofile --norc -c "$BASH_EXECUTION_STRING" init "${words[@]}" <&3 >&4 3<&- 4>&-' EXIT
while IFS=' ' read -r -u 3 verb key word; do
  case $verb in
  shell)
    # Without job control the subshell leads no process group, so setsid need not fork and $! is
    # the shell itself; such a child is born ignoring INT and QUIT, which the trap takes back.
    # Inherited by all that it starts: before process 1, and before anything of the host's, the
    # kernel kills these where memory runs short. Raising it needs no privilege.
    ( trap - INT QUIT
      echo 500 >/proc/self/oom_score_adj
      cd -- "$SANDBOX_WORKDIR"
      unset SANDBOX_WORKDIR
      exec setsid --ctty bash --noprofile --rcfile "$C/$key/rc" --noediting -i \
        <"/dev/pts/$word" >/dev/null 2>&1 3<&- 4>&- ) &
    child[$key]=$!
    printf 'started %s %s\n' "$key" "$!" >&4 ;;
  program)
    # Opened here, before the report: the host may close its end of stdin at once after that.
    exec 7<"$C/$key/in"
    set -m # a process group of its own, to be ended as one
    ( exec <&7 >"$C/$key/out" 2>"$C/$key/$word" 3<&- 4>&- 7<&-
      echo 500 >/proc/self/oom_score_adj
      . "$C/$key/text" ) &
    set +m
    exec 7<&-
    child[$key]=$!
    printf 'started %s %s\n' "$key" "$!" >&4 ;;
  kill)
    kill -s "$word" -- "-${child[$key]}"
    printf 'sent %s %s\n' "$key" "$?" >&4 ;;
  wait)
    wait "${child[$key]}"
    printf 'ended %s %s\n' "$key" "${lost[$key]:-$?}" >&4
    unset "child[$key]" "lost[$key]" ;;
  esac
done
trap - EXIT
