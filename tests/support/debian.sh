#!/usr/bin/env bash
# Install the Debian packages whose programs the tests use as judges and tools (tests/support/needs.py names the same).
# Root only. No service is started by what is installed: a policy of "never" holds for the duration, and the machine's own
# policy is put back afterwards. With everything there already, it touches nothing and needs no network.
set -euo pipefail

PACKAGES=(b3sum bash btrfs-progs busybox-static coreutils curl docker-registry docker.io e2fsprogs faketime fish gcc git iproute2 libssl-dev mount nginx-light openssl podman skopeo strace util-linux xfsprogs zsh)

missing=()
for package in "${PACKAGES[@]}"; do
    if [[ "$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null)" != installed ]]; then
        missing+=("$package")
    fi
done
if ((${#missing[@]} == 0)); then
    exit 0
fi
if [[ "$(id -u)" != 0 ]]; then
    echo "FETCHER_TEST_ALL=1 needs root to install: ${missing[*]}" >&2
    echo "hint: run it as root, or run plain 'make test', which lists what it did not run" >&2
    exit 1
fi

policy=/usr/sbin/policy-rc.d
kept=$(mktemp -d)
restore() {
    rm -f "$policy"
    if [[ -e "$kept/policy" ]]; then
        mv "$kept/policy" "$policy"
    fi
    rm -rf "$kept"
}
if [[ -e "$policy" ]]; then
    mv "$policy" "$kept/policy"
fi
trap restore EXIT
printf '#!/bin/sh\nexit 101\n' >"$policy"
chmod 0755 "$policy"

echo "installing Debian packages: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get -qq -o DPkg::Lock::Timeout=120 update
apt-get -qq -o DPkg::Lock::Timeout=120 install -y --no-install-recommends "${missing[@]}" >/dev/null
