#!/bin/sh
# Part of the image's build stage: installs what compiles for $TARGETARCH on this machine, whichever of the two this
# machine is, and leaves the names of the target in the file that it is given.
set -eu

case "$TARGETARCH" in
    amd64) machine=x86_64 package=gcc-x86-64-linux-gnu ;;
    arm64) machine=aarch64 package=gcc-aarch64-linux-gnu ;;
    *) echo "the image is built for amd64 and arm64, not for '$TARGETARCH'" >&2; exit 1 ;;
esac
target=$machine-unknown-linux-gnu
linker=$machine-linux-gnu-gcc

packages="binutils python3 python3-venv"
if [ "$TARGETARCH" != "$(dpkg --print-architecture)" ]; then
    dpkg --add-architecture "$TARGETARCH"
    packages="$packages $package libc6-dev:$TARGETARCH"
fi
apt-get update
# Files of the last two go into the image. What is linked against is of the same source: one glibc everywhere.
# shellcheck disable=SC2086
apt-get install --yes --no-install-recommends $packages "libc6:$TARGETARCH" "libstdc++6:$TARGETARCH"
rm -rf /var/lib/apt/lists/*

# An image without rustup may bring the standard library of the target itself.
[ -d "$(rustc --print sysroot)/lib/rustlib/$target" ] || rustup target add "$target"

cat > "$1" <<END
MACHINE=$machine
TARGET=$target
TRIPLET=$machine-linux-gnu
export CARGO_TARGET_$(echo "$target" | tr a-z- A-Z_)_LINKER=$linker
END
