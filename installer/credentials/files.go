package credentials

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// maxFile bounds what is read of a file that is said to be PEM, in bytes.
const maxFile = 1 << 20

// Who may read a key file.
const (
	// ownerOnly is for what an operator holds.
	ownerOnly fs.FileMode = 0o077
	// ownerAndGroup is for a server's key: root's, readable by the group that the server runs as.
	ownerAndGroup fs.FileMode = 0o027
)

// next marks the other half of a pair that is being replaced.
const next = ".new"

// createFile writes a file that must not exist. It is either there whole or not at all.
func createFile(path string, text []byte, mode fs.FileMode) error {
	temporary, err := writeTemporary(path, text, mode)
	if err != nil {
		return err
	}
	defer os.Remove(temporary)
	// link(2), unlike rename(2), never replaces.
	if err := os.Link(temporary, path); err != nil {
		if exists(path) {
			return fmt.Errorf("cannot write %s: it is there already and is not overwritten; move it away, or renew it with \"tectonic-installer certs rotate\"", path)
		}
		// A filesystem without links (FAT on a stick). Nobody else writes here: the directory is locked.
		if err := os.Rename(temporary, path); err != nil {
			return fmt.Errorf("cannot write %s: %w", path, err)
		}
	}
	return syncDirectory(filepath.Dir(path))
}

// writeTemporary writes beside path, on disk when it returns.
func writeTemporary(path string, text []byte, mode fs.FileMode) (string, error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return "", fmt.Errorf("cannot write %s: %w", path, err)
	}
	_, err = f.Write(text)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err != nil {
		os.Remove(f.Name())
		return "", fmt.Errorf("cannot write %s: %w", path, err)
	}
	return f.Name(), nil
}

// stage puts a file's successor beside it, with the owner and mode of what it will replace, less the bits in outside.
func stage(path string, text []byte, mode, outside fs.FileMode) error {
	old, err := os.Stat(path)
	if err == nil {
		mode = old.Mode().Perm() &^ outside
	}
	temporary, err := writeTemporary(path+next, text, mode)
	if err != nil {
		return err
	}
	if old != nil {
		if err := keepOwner(temporary, old); err != nil {
			os.Remove(temporary)
			return fmt.Errorf("cannot give %s the owner of the file that it replaces: %w; run as root or as that owner", path, err)
		}
	}
	if err := os.Rename(temporary, path+next); err != nil {
		os.Remove(temporary)
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return syncDirectory(filepath.Dir(path))
}

// promote puts a staged successor in its place.
func promote(path string) error {
	if err := os.Rename(path+next, path); err != nil {
		return fmt.Errorf("cannot replace %s: %w", path, err)
	}
	return syncDirectory(filepath.Dir(path))
}

func readFile(path string) ([]byte, fs.FileInfo, error) {
	// Before it is opened: opening a FIFO blocks.
	info, err := os.Stat(path)
	if err != nil {
		return nil, nil, readError(path, err)
	}
	if !info.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("cannot read %s: it is not a file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, readError(path, err)
	}
	defer f.Close()
	if info, err = f.Stat(); err != nil {
		return nil, nil, readError(path, err)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, nil, readError(path, err)
	}
	if len(text) > maxFile {
		return nil, nil, fmt.Errorf("cannot read %s: it is larger than a PEM file can be", path)
	}
	return text, info, nil
}

func readError(path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("cannot read %s: there is no such file; make the credentials with \"tectonic-installer certs\", or name the right file: %w", path, fs.ErrNotExist)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("cannot read %s: permission denied; run as its owner: %w", path, fs.ErrPermission)
	}
	return fmt.Errorf("cannot read %s: %w", path, err)
}

// readCertificates reads every certificate of a PEM file, at least one.
func readCertificates(path string) ([]*x509.Certificate, error) {
	text, _, err := readFile(path)
	if err != nil {
		return nil, err
	}
	var certificates []*x509.Certificate
	for rest := text; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("cannot read the certificate in %s: %w", path, err)
		}
		certificates = append(certificates, c)
	}
	if len(certificates) == 0 {
		return nil, fmt.Errorf("cannot read %s: there is no PEM certificate in it", path)
	}
	return certificates, nil
}

// readKey reads a private key that nobody outside may read.
func readKey(path string, outside fs.FileMode) (crypto.Signer, error) {
	text, info, err := readFile(path)
	if err != nil {
		return nil, err
	}
	if err := checkMode(path, info, outside); err != nil {
		return nil, err
	}
	for rest := text; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil, fmt.Errorf("cannot read %s: there is no PEM private key in it", path)
		}
		if block.Type == "ENCRYPTED PRIVATE KEY" || strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED") {
			return nil, fmt.Errorf("cannot read the key in %s: it is encrypted with a passphrase; decrypt it, for example with \"openssl pkey\"", path)
		}
		if !strings.HasSuffix(block.Type, "PRIVATE KEY") {
			continue
		}
		key, err := parseKey(block.Bytes)
		if err != nil {
			// What the parser says may quote the key.
			return nil, fmt.Errorf("cannot read the key in %s: it is not an ECDSA, RSA or Ed25519 key", path)
		}
		return key, nil
	}
}

func parseKey(der []byte) (crypto.Signer, error) {
	if key, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		if signer, ok := key.(crypto.Signer); ok {
			return signer, nil
		}
	}
	if key, err := x509.ParseECPrivateKey(der); err == nil {
		return key, nil
	}
	return x509.ParsePKCS1PrivateKey(der)
}

// checkMode refuses a key that others may read. Windows has no mode to look at.
func checkMode(path string, info fs.FileInfo, outside fs.FileMode) error {
	if runtime.GOOS == "windows" || info.Mode().Perm()&outside == 0 {
		return nil
	}
	want := "0600"
	if outside == ownerAndGroup {
		want = "0640"
	}
	return fmt.Errorf("cannot use the key %s: its mode is %#o, others may read or change it; run \"chmod %s %s\", and make a new key if the machine has other users", path, info.Mode().Perm(), want, path)
}
