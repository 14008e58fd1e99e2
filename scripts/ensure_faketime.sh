#!/bin/sh
# A test starts the platform under another clock. Install Debian's libfaketime if there is none.
set -eu
if ls /usr/lib/*/faketime/libfaketimeMT.so.1 >/dev/null 2>&1; then exit 0; fi
echo "No libfaketime found: installing Debian's package for the tests"
sudo=
[ "$(id -u)" = 0 ] || sudo=sudo
$sudo apt-get update -qq
DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq libfaketime >/dev/null
