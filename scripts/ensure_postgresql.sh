#!/bin/sh
# Tests start, stop and kill PostgreSQL servers of their own. Install Debian's package if there are no server binaries.
set -eu
for initdb in /usr/lib/postgresql/*/bin/initdb; do
  if [ -x "$initdb" ]; then exit 0; fi
done
if command -v initdb >/dev/null 2>&1; then exit 0; fi
echo "No PostgreSQL found: installing Debian's package for the tests"
sudo=
[ "$(id -u)" = 0 ] || sudo=sudo
$sudo apt-get update -qq
DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq postgresql >/dev/null
