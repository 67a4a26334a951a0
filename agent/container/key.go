package container

import (
	"bytes"
	"crypto/sha1" // what an OpenPGP version 4 fingerprint is made of (RFC 4880, 12.2)
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// The key that signs Quay's images, as the original package pinned it. rkt
// trusts a key for a prefix by the place and name of a file, which it checks
// against the key inside.
const (
	RktTrustedKeyFingerprint = "bff313cdaa560b16a8987b8f72abf5f6799d33bc"
	RktTrustedKeyPrefix      = "quay.io"
	RktTrustedKeyPath        = "/etc/rkt/trustedkeys/prefix.d/" + RktTrustedKeyPrefix + "/" + RktTrustedKeyFingerprint // mode 0664 in 0775
	RktTrustedKeyURL         = "https://quay.io/aci-signing-key"
)

// CheckTrustedKey refuses a key that is not Quay's: only what passes may be
// written to RktTrustedKeyPath.
func CheckTrustedKey(key []byte) error {
	got, err := Fingerprint(key)
	if err != nil {
		return fmt.Errorf("what %s serves is not a signing key: %w", RktTrustedKeyURL, err)
	}
	if got != RktTrustedKeyFingerprint {
		return fmt.Errorf("the key that %s serves has the fingerprint %s, not the pinned %s: it is not trusted", RktTrustedKeyURL, got, RktTrustedKeyFingerprint)
	}
	return nil
}

// Fingerprint is that of the first key in an OpenPGP public key block,
// armored or not: the primary key. It refuses a block with a second primary
// key, because rkt trusts everything in the file.
func Fingerprint(key []byte) (string, error) {
	data := key
	if bytes.Contains(key, []byte("-----BEGIN")) {
		var err error
		if data, err = dearmor(string(key)); err != nil {
			return "", err
		}
	}
	found := ""
	for len(data) > 0 {
		tag, body, rest, err := packet(data)
		if err != nil {
			return "", err
		}
		data = rest
		switch {
		case tag == 5 || tag == 7:
			return "", errors.New("it holds a secret key")
		case tag != 6:
			if found == "" {
				return "", fmt.Errorf("it begins with an OpenPGP packet of type %d, not with a public key", tag)
			}
		case found != "":
			return "", errors.New("it holds more than one key")
		case len(body) == 0 || body[0] != 4 || len(body) > 0xffff:
			return "", errors.New("it holds no OpenPGP key of version 4")
		default:
			head := binary.BigEndian.AppendUint16([]byte{0x99}, uint16(len(body)))
			sum := sha1.Sum(append(head, body...))
			found = hex.EncodeToString(sum[:])
		}
	}
	if found == "" {
		return "", errors.New("it is empty")
	}
	return found, nil
}

func dearmor(text string) ([]byte, error) {
	text = strings.ReplaceAll(text, "\r\n", "\n")
	_, text, ok := strings.Cut(text, "-----BEGIN PGP PUBLIC KEY BLOCK-----\n")
	body, after, ended := strings.Cut(text, "-----END PGP PUBLIC KEY BLOCK-----")
	if !ok || !ended || strings.Contains(after, "-----BEGIN") {
		return nil, errors.New("want one PGP PUBLIC KEY BLOCK, whole")
	}
	if _, rest, headers := strings.Cut(body, "\n\n"); headers {
		body = rest // "Version: …" and the like end with an empty line
	}
	var b64 strings.Builder
	for line := range strings.Lines(body) {
		if line = strings.TrimSpace(line); !strings.HasPrefix(line, "=") { // the checksum
			b64.WriteString(line)
		}
	}
	return base64.StdEncoding.DecodeString(b64.String())
}

// packet splits off the first OpenPGP packet (RFC 4880, 4.2).
func packet(data []byte) (tag int, body, rest []byte, err error) {
	cut := errors.New("it breaks off in the middle of a packet")
	if data[0]&0x80 == 0 {
		return 0, nil, nil, errors.New("it is not in OpenPGP format")
	}
	size, head := 0, 0
	field := func(n int) bool {
		if len(data) < 1+n {
			return false
		}
		for _, b := range data[1 : 1+n] {
			size = size<<8 | int(b)
		}
		head = 1 + n
		return true
	}
	if data[0]&0x40 == 0 { // old format: the length of the length is in the tag
		tag = int(data[0]>>2) & 0xf
		if t := data[0] & 3; t == 3 || !field(1<<t) {
			return 0, nil, nil, cut
		}
	} else {
		tag = int(data[0] & 0x3f)
		switch {
		case !field(1):
			return 0, nil, nil, cut
		case size >= 192 && size < 224:
			if len(data) < 3 {
				return 0, nil, nil, cut
			}
			size, head = (size-192)<<8+int(data[2])+192, 3
		case size == 255:
			if len(data) < 6 {
				return 0, nil, nil, cut
			}
			size, head = int(binary.BigEndian.Uint32(data[2:])), 6
		case size >= 224:
			return 0, nil, nil, errors.New("it has a packet of unknown length")
		}
	}
	if size < 0 || size > len(data)-head {
		return 0, nil, nil, cut
	}
	return tag, data[head : head+size], data[head+size:], nil
}
