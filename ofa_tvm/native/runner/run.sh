#!/bin/sh
# Classifies pictures with the module that lies beside it, wherever this folder is: sh run.sh photo.jpg
#
# sh run.sh --help says what else it takes. It needs nothing of the system where the folder brings a C library of
# its own. OFA_TVM_EMULATOR may name the command of an emulator to try it with.
case $0 in
*/*) here=${0%/*} ;;
*) here=. ;;
esac
here=$(cd "$here" && pwd) || exit 1
loader=$here/runtime/@LOADER@
program=$here/runtime/@PROGRAM@
refused=$here/runtime/@REFUSED@

chmod 755 "$program" "$loader" "$refused" 2>/dev/null # what copied the folder may have dropped this
if [ -f "$loader" ]; then
  unset LD_PRELOAD LD_LIBRARY_PATH # those are for this system's own C library
  set -- "$loader" --inhibit-cache --library-path "$here/runtime" "$program" --needs "@NEEDS@" --cpus @CPUS@ "$here/@MODULE@" "$@"
else
  set -- "$program" --needs "@NEEDS@" --cpus @CPUS@ "$here/@MODULE@" "$@"
fi
$OFA_TVM_EMULATOR "$@"
status=$?
if [ $status = 159 ] && [ -f "$refused" ]; then # SIGSYS: Android's filter for apps is in force here
  exec $OFA_TVM_EMULATOR "$refused" "$@"
fi
[ $status -gt 2 ] || exit $status # it has said what is wrong
for file in @FILES@; do
  size=$(wc -c 2>/dev/null <"$here/${file%:*}")
  [ "$((size))" = "${file##*:}" ] || {
    echo "error: ${file%:*} is missing in $here or not whole; copy the folder again" >&2
    exit 1
  }
done
machine=$(uname -m)
if [ "$machine" != @ARCH@ ] && [ -z "$OFA_TVM_EMULATOR" ]; then
  echo "error: this device's programs are for $machine, and this folder's for @ARCH@" >&2
elif [ $status = 126 ] || [ $status = 127 ]; then
  echo "error: the program cannot be run in $here." >&2
  echo "On a phone the folder has to lie where programs may be run, such as /data/local/tmp; not on an SD card." >&2
else
  echo "error: the program ended by status $status" >&2
fi
exit $status
