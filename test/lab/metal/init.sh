#!/bin/sh
# /init of the lab's operating system, which stands for Flatcar: the same archive boots it from the network (then the archive
# has the system, usr.squashfs) and from a disk (then the system is a partition). On the first boot the real Ignition runs, before
# systemd does, with the configuration that the kernel's command line or the disk names, as on Flatcar.
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /run
exec </dev/console >/dev/console 2>&1

say() { echo "lab os: $*"; }
# A machine that cannot boot says so and goes off; Flatcar would give an emergency shell.
fail() {
	say "cannot boot: $*"
	sync
	poweroff -f
}

while read -r module; do
	insmod "/modules/$module" || say "cannot load $module"
done </modules/order

# partition NAME prints the device of the partition with that name in the partition table.
partition() {
	for uevent in /sys/class/block/*/uevent; do
		if grep -qx "PARTNAME=$1" "$uevent"; then
			sed -n 's|^DEVNAME=|/dev/|p' "$uevent"
			return 0
		fi
	done
	return 1
}

first=
read -r cmdline </proc/cmdline
for word in $cmdline; do
	case $word in
	flatcar.first_boot=1 | flatcar.first_boot=detected) first=1 ;;
	esac
done

mkdir -p /usr-ro /upper /sysroot /env /env-upper
if [ -e /usr.squashfs ]; then
	say "live: the system is in memory"
	mount -t squashfs -o loop,ro /usr.squashfs /usr-ro || fail "cannot mount the system"
	mount -t tmpfs -o size=80% tmpfs /upper
	where=live
else
	say "disk: the system is on $(partition USR-A)"
	mount -t squashfs -o ro "$(partition USR-A)" /usr-ro || fail "cannot mount the partition USR-A"
	mount -t ext4 "$(partition ROOT)" /upper || fail "cannot mount the partition ROOT"
	[ -e /upper/first-boot-done ] || first=1
	where=disk
fi
mkdir -p /upper/upper /upper/work
mount -t overlay -o lowerdir=/usr-ro,upperdir=/upper/upper,workdir=/upper/work overlay /sysroot || fail "cannot mount the root file system"

# ignition STAGE runs one stage in a writable copy of the system, which has the programs that Ignition calls.
ignition() {
	stage=$1
	shift
	say "ignition: $stage"
	PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot /env /usr/bin/ignition --root=/sysroot --platform=metal --stage="$stage" --config-cache=/run/ignition.json --log-to-stdout "$@" ||
		fail "Ignition failed in its stage $stage"
}

if [ -n "$first" ]; then
	mount -t tmpfs tmpfs /env-upper
	mkdir -p /env-upper/upper /env-upper/work
	mount -t overlay -o lowerdir=/usr-ro,upperdir=/env-upper/upper,workdir=/env-upper/work overlay /env
	mkdir -p /env/sysroot
	# Debian's Ignition always labels what it wrote; there is no SELinux here.
	ln -sf ../bin/true /env/usr/sbin/setfiles
	for dir in proc sys dev run sysroot; do
		mount -o bind "/$dir" "/env/$dir"
	done
	for dir in proc sys dev run; do
		mount -o bind "/$dir" "/sysroot/$dir"
	done
	if [ "$where" = disk ]; then
		mkdir -p /oem /env/usr/lib/ignition
		mount -t ext4 -o ro "$(partition OEM)" /oem || fail "cannot mount the partition OEM"
		if [ -e /oem/config.ign ]; then
			cp /oem/config.ign /env/usr/lib/ignition/user.ign
		fi
		umount /oem
	fi
	ignition fetch-offline --neednet=/run/neednet
	if [ -e /run/neednet ]; then
		say "asking for an address"
		ip link set lo up
		for nic in /sys/class/net/*; do
			nic=${nic##*/}
			[ "$nic" = lo ] && continue
			ip link set "$nic" up
			udhcpc -i "$nic" -n -q -t 10 -T 2 -s /dhcp.sh && break
		done
		rm -f /env/etc/resolv.conf # a link to what systemd-resolved will write
		cp /run/resolv.conf /env/etc/resolv.conf || fail "no address from DHCP"
		ignition fetch
	fi
	ignition disks
	ignition mount
	ignition files
	ignition umount
	for dir in proc sys dev run; do
		umount "/sysroot/$dir"
	done
	for dir in sysroot run dev sys proc; do
		umount "/env/$dir"
	done
	umount /env
	umount /env-upper
	[ "$where" = disk ] && : >/upper/first-boot-done
	# systemd-networkd takes over; udev renames a card only while it is down.
	for nic in /sys/class/net/*; do
		ip addr flush dev "${nic##*/}"
		ip link set "${nic##*/}" down
	done
	sync
fi
for dir in run dev sys proc; do
	umount "/$dir" 2>/dev/null || umount -l "/$dir"
done
say "starting systemd" 2>/dev/null
exec switch_root /sysroot /sbin/init
