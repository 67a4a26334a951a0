#!/bin/sh
# Tells the provisioner that this machine has started from its disk, once. The token reaches curl on its standard input,
# so that no list of processes shows it.
token=/etc/tectonic-machine/ready.token
read -r secret <"$token" || exit 0
while :; do
	code=$(printf 'header = "Authorization: Bearer %s"\n' "$secret" |
		curl --config - --silent --show-error --output /dev/null --write-out '%{http_code}' --max-time 30 --noproxy '*' \
			--cacert /etc/tectonic-machine/ca.crt --header 'Content-Type: application/json' --data '{}' '@URL@')
	case $code in
	2??)
		rm -f "$token"
		exit 0
		;;
	401 | 410)
		rm -f "$token"
		echo "the provisioner does not take this machine's token any more (HTTP $code): it was armed again, or accepted by hand" >&2
		exit 1
		;;
	esac
	sleep 5
done
