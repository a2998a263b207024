#!/usr/bin/env bash
# Runs exported files on emulated ARM64 processors: agreement with this machine in every mode, and the
# instructions that one block of ConvMixer-1024/20 takes, the stock converter's files against ours.
#
#   benchmarks/arm64.sh [FOLDER]     FOLDER keeps what is downloaded (default: a temporary one)
#
# Needs Debian 12 (it downloads arm64 packages with apt-get into FOLDER, and installs none), Python 3.11, gcc,
# and qemu-aarch64 of the package qemu-user. About ten minutes. Instructions are not milliseconds: how many a
# processor does in a cycle depends on which they are.
set -euo pipefail
cd "$(dirname "$0")"

folder=${1:-$(mktemp -d)}
[ $# -gt 0 ] || trap 'rm -rf "$folder"' EXIT
mkdir -p "$folder"
folder=$(realpath "$folder")
root=$folder/root

# Debian's arm64 Python, unpacked and not installed.
if [ ! -x "$root/usr/bin/python3.11" ]; then
    mkdir -p "$folder"/apt/{state,cache/archives}/partial "$folder/apt/state/lists/partial" "$root/proc"
    cat >"$folder/apt/apt.conf" <<APT
Dir::State "$folder/apt/state";
Dir::State::status "$folder/apt/status";
Dir::Cache "$folder/apt/cache";
Dir::Etc::sourcelist "$folder/apt/sources.list";
Dir::Etc::sourceparts "-";
APT::Architecture "arm64";
APT::Architectures { "arm64"; };
APT::Install-Recommends "false";
APT::Sandbox::User "root";
APT
    echo 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian bookworm main' \
        >"$folder/apt/sources.list"
    : >"$folder/apt/status"
    export APT_CONFIG=$folder/apt/apt.conf
    apt-get -qq update
    apt-get -qq install --download-only -y python3.11 libstdc++6
    unset APT_CONFIG
    for package in "$folder"/apt/cache/archives/*.deb; do dpkg-deb -x "$package" "$root"; done
fi
if [ ! -d "$folder/site" ]; then
    python3 -m pip install --quiet --target "$folder/site" --only-binary=:all: --python-version 3.11 \
        --platform manylinux_2_27_aarch64 --platform manylinux_2_17_aarch64 --platform manylinux2014_aarch64 \
        ai-edge-litert numpy
fi

gcc -O2 -shared -fPIC -o "$folder/count.so" arm64_count.c
python3 arm64.py write "$folder/files"

# What qemu emulates, and the part number that LiteRT reads: qemu crashes with those of real cores that have i8mm.
emulated() {
    local name=$1 cpu=$2 part=$3
    shift 3
    # qemu would show the host's; it looks below its root first.
    printf 'processor\t: 0\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: %s\nCPU revision\t: 0\n' \
        "$part" >"$root/proc/cpuinfo"
    PYTHONPATH=$folder/site PYTHONDONTWRITEBYTECODE=1 \
        qemu-aarch64 -L "$root" -cpu "$cpu" "$@" "$root/usr/bin/python3.11" arm64.py run "$folder/files" "$name"
}
for part in cortex-a53=cortex-a53=0xd03 cortex-a76=cortex-a76=0xd0b i8mm=max,sme=off=0xd0b; do
    # The last two "=" divide, as a processor's own settings have some.
    name=${part%%=*} rest=${part#*=}
    echo "== $name" >&2
    emulated "$name" "${rest%=*}" "${rest##*=}" -plugin "$folder/count.so"
done 2>"$folder/counts"
python3 arm64.py report "$folder/files" "$folder/counts"
