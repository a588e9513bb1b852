#!/bin/sh
# Install Debian's Chromium for the tests of the book. Without a browser these tests skip, so this script never fails.
set -u
for name in chromium chromium-browser google-chrome google-chrome-stable chrome; do
	if command -v "$name" >/dev/null; then
		echo "browser: $(command -v "$name")"
		exit 0
	fi
done
if ! command -v apt-get >/dev/null; then
	echo "browser: none found, and this system has no apt-get: install Chromium yourself, or set BROWSER_FOR_TESTS to its path"
elif [ "$(id -u)" -ne 0 ]; then
	echo "browser: none found; you may install it with: sudo apt-get install chromium"
elif apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null; then
	echo "browser: $(command -v chromium)"
else
	echo "browser: apt-get could not install chromium; the tests of the book that need it will skip"
fi
