#!/system/bin/sh
# Starts the device server of ofa-tvm by the C library that lies beside it, wherever this folder is.
#
#   sh start.sh [OPTION VALUE]...   in the foreground until Ctrl-C; OPTION is one of the server's (--help 1)
#   sh start.sh stop                ends the one that was started from this folder
#
# It writes into this folder alone and listens on the loopback address. OFA_TVM_EMULATOR may name the command of
# an emulator to try it with. No here-documents: a phone's shell has no place for their temporary files.
case $0 in
*/*) here=${0%/*} ;;
*) here=. ;;
esac
here=$(cd "$here" && pwd) || exit 1
loader=$here/lib/@LOADER@
server=$here/@SERVER@
refused=

say() {
  echo "$*" >&2
}

if [ "$1" = stop ]; then
  pid=$(cat "$here/pid" 2>/dev/null)
  rm -f "$here/pid"
  # After a restart of the phone the number may be another program's.
  if [ -n "$pid" ] && grep -qF "$server" "/proc/$pid/cmdline" 2>/dev/null && kill "$pid" 2>/dev/null; then
    exit 0
  fi
  say "no server runs that was started in $here"
  exit 0
fi

unset LD_PRELOAD LD_LIBRARY_PATH # those are for this system's own C library
chmod 755 "$loader" "$here/lib/@REFUSED@" "$server" 2>/dev/null
answer=$($OFA_TVM_EMULATOR "$loader" --inhibit-cache --library-path "$here/lib" "$server" --help 1 2>&1)
case $? in
0) ;;
159) refused=$here/lib/@REFUSED@ ;; # SIGSYS: Android's filter for apps is in force here
*)
  for file in @FILES@; do
    size=$(wc -c 2>/dev/null <"$here/${file%:*}")
    [ "$((size))" = "${file##*:}" ] || {
      say "error: ${file%:*} is missing in $here or not whole; copy the folder again"
      exit 1
    }
  done
  machine=$(uname -m)
  if [ "$machine" != @ARCH@ ] && [ -z "$OFA_TVM_EMULATOR" ]; then
    say "error: this device's programs are for $machine, and this folder is for @ARCH@"
  else
    say "error: the server cannot be run in $here: $answer"
    say "On a phone the folder has to lie where programs may be run, such as /data/local/tmp; not on an SD card."
  fi
  exit 1
  ;;
esac

port=9090
tracker=127.0.0.1:9190
key=@KEY@
target=@TARGET@
option=
for word in "$@"; do
  case $option in
  --port) port=$word ;;
  --tracker) tracker=$word ;;
  --key) key=$word ;;
  esac
  option=$word
done
say "ofa-tvm @VERSION@: a device of key $key on port $port for the tracker at $tracker. On the computer:"
say "  ofa-tvm device tracker                           # once, and leave it running"
say "  adb reverse tcp:${tracker##*:} tcp:9190 && adb forward tcp:$port tcp:$port"
say "  export OFA_TVM_TRACKER=127.0.0.1:9190"
say "  ofa-tvm device list                              # this device is there, and free"
say "  ofa-tvm tune --target $target"

[ -z "$OFA_TVM_EMULATOR" ] || say "Emulated: its times say nothing of a device."

cd "$here" || exit 1
echo $$ >"$here/pid"
# shellcheck disable=SC2086
exec $OFA_TVM_EMULATOR $refused "$loader" --inhibit-cache --library-path "$here/lib" "$server" \
  --port "$port" --tracker "$tracker" --key "$key" --folder "$here" --cpus @CPUS@ "$@"
