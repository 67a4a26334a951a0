// Command rkt-double is a double of rkt 1.30 for tests on machines where no rkt can be installed: rkt is archived and
// in no package repository. It owns rkt's command line, to the letter (an option, a value or an order that rkt 1.30
// refuses is refused here, with exit code 254), its trusted keys, and the fly stage1's way of running an app: chroot,
// bind mounts, and becoming the app by exec. It must not be lenient, must not be installed on a real host, and proves
// nothing of rkt's own: its images are directories and "signed" by a name in their manifest. Where a rkt is on PATH,
// the tests use that one.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// failure is rkt's exit code for anything that went wrong before the app ran.
const failure = 254

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	c := &cli{stdout: stdout, stderr: stderr}
	if err := c.main(args); err != nil {
		var usage *usageError
		if errors.As(err, &usage) {
			fmt.Fprintf(stderr, "Error: %v\nRun 'rkt --help' for usage.\n", err)
		} else {
			fmt.Fprintf(stderr, "%s: %v\n", c.command, err)
		}
		return failure
	}
	return 0
}

// usageError is a command line that rkt does not understand.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

// cli is one call of rkt.
type cli struct {
	command        string // for messages, as rkt prefixes them
	stdout, stderr io.Writer
	global         values
}

func (c *cli) main(args []string) error {
	c.command, c.global = "rkt", values{}
	// Global options stand before the command or among its own.
	args, err := globalOptions.parse(args, c.global, nil)
	if err != nil {
		return err
	}
	if len(args) == 0 {
		return usagef("no command")
	}
	c.command = args[0]
	command, ok := map[string]func([]string) error{
		"run": c.run, "fetch": c.fetch, "trust": c.trust, "rm": c.remove, "stop": c.stop, "list": c.list,
		"image": c.image, "version": c.version, "gc": c.collect,
	}[args[0]]
	if !ok {
		return usagef("unknown command %q for \"rkt\"", args[0])
	}
	return command(args[1:])
}

func (c *cli) version(args []string) error {
	if len(args) > 0 {
		return usagef("version: unexpected argument %q", args[0])
	}
	_, err := fmt.Fprintln(c.stdout, "rkt Version: 1.30.0\nappc Version: 0.8.11\nGo Version: go1.8.3\nGo OS/Arch: linux/amd64\nFeatures: -TPM +SDJOURNAL")
	return err
}

// dir is rkt's data directory.
func (c *cli) dir() string {
	if dir := c.global.last("dir"); dir != "" {
		return dir
	}
	return "/var/lib/rkt"
}

// configDir is where rkt keeps local configuration, its trusted keys among it.
func (c *cli) configDir() string {
	if dir := c.global.last("local-config"); dir != "" {
		return dir
	}
	return "/etc/rkt"
}
