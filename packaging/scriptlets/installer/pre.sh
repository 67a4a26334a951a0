# Before the files come, which belong to matchbox: its user and group are made where they are missing. One that is there
# already, of a matchbox that was installed by hand for instance, is taken as it is. They are never removed: files of
# theirs may be left.
if command -v getent >/dev/null 2>&1; then
    getent group matchbox >/dev/null 2>&1 || groupadd -r matchbox >/dev/null 2>&1 || :
    getent passwd matchbox >/dev/null 2>&1 ||
        useradd -r -g matchbox -d /var/lib/matchbox -M -s /sbin/nologin -c "Network boot and provisioning" matchbox >/dev/null 2>&1 || :
fi
exit 0
