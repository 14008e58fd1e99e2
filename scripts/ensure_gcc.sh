#!/bin/sh
# The tests build C programs with dbc/bmsota_wire.h. Install Debian's compiler if there is none.
set -eu
if command -v gcc >/dev/null 2>&1; then exit 0; fi
echo "No gcc found: installing Debian's package for the tests"
sudo=
[ "$(id -u)" = 0 ] || sudo=sudo
$sudo apt-get update -qq
DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq gcc libc6-dev >/dev/null
