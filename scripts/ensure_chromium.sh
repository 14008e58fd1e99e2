#!/bin/sh
# The page tests drive a real browser. Use the one in BMSOTA_CHROMIUM or on the path; install Debian's if there is none
# (with its recommended fonts: the tests look for clipped text).
set -eu
if [ -n "${BMSOTA_CHROMIUM:-}" ] && [ -x "$BMSOTA_CHROMIUM" ]; then exit 0; fi
for name in chromium chromium-browser google-chrome; do
  if command -v "$name" >/dev/null 2>&1; then exit 0; fi
done
echo "No Chromium found: installing Debian's package for the page tests"
sudo=
[ "$(id -u)" = 0 ] || sudo=sudo
$sudo apt-get update -qq
DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq chromium >/dev/null
