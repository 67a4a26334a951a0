package power

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"

	"go.yaml.in/yaml/v3"
)

// Secret is text that no log, error or document shows. string(s) is the text itself.
type Secret string

const hidden = "(hidden)"

// String hides it.
func (Secret) String() string { return hidden }

// GoString hides it from %#v.
func (Secret) GoString() string { return hidden }

// Format hides it from every verb of package fmt.
func (Secret) Format(f fmt.State, _ rune) { io.WriteString(f, hidden) }

// MarshalText hides it from JSON, YAML and slog.
func (Secret) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// Credentials are for a BMC.
type Credentials struct {
	Username string
	Password Secret
}

// Limits of IPMI 2.0 (specification, 13.20 and 22.30).
const (
	maxUsername = 16
	maxPassword = 20
)

func (c Credentials) check() error {
	switch {
	case len(c.Username) > maxUsername:
		return fmt.Errorf("the user name has %d bytes; IPMI takes at most %d", len(c.Username), maxUsername)
	case len(c.Password) > maxPassword:
		return fmt.Errorf("the password has %d bytes; IPMI 2.0 takes at most %d: give the BMC user a shorter one", len(c.Password), maxPassword)
	case c.Password == "":
		return errors.New("the password is empty")
	}
	return nil
}

// maxCredentials bounds what is read of a file.
const maxCredentials = 64 << 10

// LoadCredentials reads them from exactly one of a file (YAML with username and password, readable by its owner
// alone) and a prefix of environment variables (PREFIX_USERNAME, PREFIX_PASSWORD).
func LoadCredentials(file, env string) (Credentials, error) {
	var c Credentials
	var err error
	switch {
	case file != "" && env != "":
		return c, fmt.Errorf("cannot read BMC credentials: both the file %s and the environment %s_… are named; keep one", file, env)
	case file != "":
		c, err = credentialsFile(file)
		if err == nil {
			err = c.check()
		}
		if err != nil {
			return Credentials{}, fmt.Errorf("cannot read BMC credentials from %s: %w", file, err)
		}
	case env != "":
		c, err = credentialsEnv(env)
		if err == nil {
			err = c.check()
		}
		if err != nil {
			return Credentials{}, fmt.Errorf("cannot read BMC credentials from the environment %s_…: %w", env, err)
		}
	default:
		return c, errors.New("cannot read BMC credentials: neither a file nor a prefix of environment variables is named")
	}
	return c, nil
}

func credentialsEnv(prefix string) (Credentials, error) {
	user, okUser := os.LookupEnv(prefix + "_USERNAME")
	password, okPassword := os.LookupEnv(prefix + "_PASSWORD")
	switch {
	case !okUser && !okPassword:
		return Credentials{}, fmt.Errorf("neither %s_USERNAME nor %s_PASSWORD is set", prefix, prefix)
	case !okUser:
		return Credentials{}, fmt.Errorf("%s_USERNAME is not set", prefix)
	case !okPassword:
		return Credentials{}, fmt.Errorf("%s_PASSWORD is not set", prefix)
	}
	return Credentials{user, Secret(password)}, nil
}

func credentialsFile(path string) (Credentials, error) {
	// Opened first and asked then: what is checked is what is read. A FIFO must not be waited for.
	f, err := os.OpenFile(path, os.O_RDONLY|openFlags, 0)
	if err != nil {
		return Credentials{}, bare(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return Credentials{}, bare(err)
	}
	if !info.Mode().IsRegular() {
		return Credentials{}, errors.New("it is not a regular file")
	}
	if mode := info.Mode().Perm(); runtime.GOOS != "windows" && mode&0o077 != 0 {
		return Credentials{}, fmt.Errorf("others can read it (mode %04o); run \"chmod 600 %s\"", mode, path)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxCredentials+1))
	if err != nil {
		return Credentials{}, bare(err)
	}
	if len(text) > maxCredentials {
		return Credentials{}, fmt.Errorf("it has more than %d bytes", maxCredentials)
	}
	return parseCredentials(text)
}

// parseCredentials never shows the text that it cannot read: yaml's own errors quote values.
func parseCredentials(text []byte) (Credentials, error) {
	const form = "write it as two lines, \"username: …\" and \"password: …\""
	var node yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	if err := decoder.Decode(&node); err != nil {
		return Credentials{}, errors.New("it is not YAML; " + form)
	}
	if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return Credentials{}, errors.New("it has more than one document; " + form)
	}
	if len(node.Content) != 1 || node.Content[0].Kind != yaml.MappingNode {
		return Credentials{}, errors.New("it does not hold keys; " + form)
	}
	var c Credentials
	seen := map[string]bool{}
	pairs := node.Content[0].Content
	for i := 0; i+1 < len(pairs); i += 2 {
		key, value := pairs[i], pairs[i+1]
		if seen[key.Value] {
			return Credentials{}, fmt.Errorf("line %d: %s is there twice", key.Line, key.Value)
		}
		seen[key.Value] = true
		if key.Value != "username" && key.Value != "password" {
			return Credentials{}, fmt.Errorf("line %d: there is an unknown key; %s", key.Line, form)
		}
		if value.Kind != yaml.ScalarNode || value.Tag == "!!null" {
			return Credentials{}, fmt.Errorf("line %d: %s is not text; %s", value.Line, key.Value, form)
		}
		if key.Value == "username" {
			c.Username = value.Value
		} else {
			c.Password = Secret(value.Value)
		}
	}
	for _, key := range []string{"username", "password"} {
		if !seen[key] {
			return Credentials{}, fmt.Errorf("%s is missing; %s", key, form)
		}
	}
	return c, nil
}

// bare takes the path out of an error of package os; the caller names it.
func bare(err error) error {
	var path *os.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}
