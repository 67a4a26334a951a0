#!/bin/sh
# A double of Flatcar's flatcar-install for the lab's own image. It accepts what the real one documents and nothing else, and
# does what the real one does with the options that tectonic-machine uses: it downloads the image from -b and -V, writes
# it while gpgv verifies the signature, undoes a write that was not what the signature says, and copies the Ignition
# configuration to the partition OEM. Options that the lab has no use for end it with an error instead of being ignored.
set -eu
umask 077

usage() {
	echo "Usage: flatcar-install -d DEVICE -V VERSION -b BASEURL [-C CHANNEL] [-B BOARD] [-i IGNITION] [-o OEM] [-k KEYFILE] [-u] [-v]" >&2
	exit 1
}
die() {
	echo "flatcar-install: $*" >&2
	exit 1
}

version='' board=amd64-usr channel=stable device='' oem='' ignition='' base='' key=/usr/share/lab/image-signing-key.gpg uefi=''
while getopts 'V:B:C:DI:d:o:c:e:i:t:b:k:f:nusyvh' option; do
	case $option in
	V) version=$OPTARG ;;
	B) board=$OPTARG ;;
	C) channel=$OPTARG ;;
	d) device=$OPTARG ;;
	o) oem=$OPTARG ;;
	i) ignition=$OPTARG ;;
	b) base=${OPTARG%/} ;;
	k) key=$OPTARG ;;
	u) uefi=1 ;;
	t) ;;
	v) set -x ;;
	D | I | c | e | f | n | s | y) die "the lab's double does not do -$option" ;;
	*) usage ;;
	esac
done
shift $((OPTIND - 1))
[ $# = 0 ] || die "no arguments are expected besides options: $*"
[ -n "$device" ] || die "no target block device: -d is required"
[ "$(lsblk -n -d -o TYPE "$device")" = disk ] || die "$device is not a whole disk"
[ -w "$device" ] || die "$device is not writable"
[ -z "$ignition" ] || [ -f "$ignition" ] || die "there is no Ignition config $ignition"
if [ -z "$version" ] || [ -z "$base" ]; then
	die "the lab has no default version and mirror: -V and -b are required"
fi
[ "$board" = amd64-usr ] || die "the lab has no image for $board"

image=flatcar_production_${oem:+${oem}_}image.bin.bz2
url=$base/$version/$image
fetch() { curl --fail --silent --show-error --retry 10 --retry-connrefused --connect-timeout 20 "$@"; }
fetch --head --output /dev/null "$url" || die "there is no image at $url"
fetch --head --output /dev/null "$url.sig" || die "there is no signature at $url.sig"

work=$(mktemp -d)
modified=''
cleanup() {
	status=$?
	if [ $status != 0 ] && [ -n "$modified" ]; then
		wipefs --all --quiet "$device" || true
	fi
	rm -rf "$work"
	exit $status
}
trap cleanup EXIT

echo "Downloading the signature for $url..."
fetch --output "$work/$image.sig" "$url.sig"

echo "Downloading, writing and verifying $image..."
modified=1
# The signature covers the file as it is downloaded: it is verified while the image is on its way to the disk.
mkfifo "$work/compressed"
lbzip2 -cd <"$work/compressed" | dd of="$device" bs=1M iflag=fullblock conv=nocreat,fsync status=none &
writer=$!
fetch "$url" | tee "$work/compressed" | gpgv --quiet --keyring "$key" "$work/$image.sig" - || die "the signature of $image does not fit"
wait $writer || die "cannot write $image to $device"
udevadm settle
reread=''
for pause in 0 1 2 4; do
	sleep $pause
	blockdev --rereadpt "$device" && reread=1 && break
done
[ -n "$reread" ] || die "cannot read the partitions of $device again"
udevadm settle

if [ -n "$ignition" ]; then
	echo "Installing Ignition config $ignition..."
	mkdir "$work/oem"
	mount "$(blkid -l -t LABEL=OEM -o device "$device"*)" "$work/oem"
	cp "$ignition" "$work/oem/config.ign"
	umount "$work/oem"
fi
if [ -n "$uefi" ]; then
	efibootmgr --quiet --create --disk "$device" --loader '\efi\boot\bootx64.efi' --label "Flatcar Container Linux $channel"
fi
echo "Success! Flatcar Container Linux $channel $version${oem:+ ($oem)} is installed on $device"
