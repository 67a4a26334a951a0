// Command rpm builds the RPMs of tectonic-worker and tectonic-installer from built binaries and this repository's files.
//
//	go run ./packaging/rpm --binary bin/tectonic-worker --drain bin/tectonic-worker-drain --completions dist/completions \
//	    --version v1.2.3 --arch x86_64 --dist el9 --out dist
//	go run ./packaging/rpm --package tectonic-installer --binary bin/linux-amd64/tectonic-installer --programs bin \
//	    --completions dist/completions --version v1.2.3 --arch x86_64 --dist el9 --out dist
//
// SOURCE_DATE_EPOCH (seconds since 1970) is the time of everything in the package.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/tectonic-worker/tectonic-worker/packaging"
)

func main() { os.Exit(run(os.Args[1:], os.Getenv("SOURCE_DATE_EPOCH"), os.Stdout, os.Stderr)) }

func run(args []string, epoch string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("rpm", flag.ContinueOnError)
	flags.SetOutput(stderr)
	var o packaging.Options
	flags.StringVar(&o.Package, "package", packaging.Name, packaging.Name+" or "+packaging.Installer)
	flags.StringVar(&o.Binary, "binary", "", "the built program of the package")
	flags.StringVar(&o.Programs, "programs", "bin", "`directory` with linux-amd64/tectonic-machine and linux-arm64/tectonic-machine, for tectonic-installer")
	flags.StringVar(&o.Drain, "drain", "", "the built tectonic-worker-drain (default: beside the binary)")
	flags.StringVar(&o.Completions, "completions", "dist/completions", "`directory` with the program's completions: its name and .bash, .zsh and .fish")
	flags.StringVar(&o.Source, "source", ".", "the repository")
	flags.StringVar(&o.Version, "version", "", "version, as git describes it")
	flags.StringVar(&o.Release, "release", "1", "counts the packages of one version")
	flags.StringVar(&o.Arch, "arch", "x86_64", strings.Join(packaging.Arches(), ", "))
	dist := flags.String("dist", "el9", "one or more of "+strings.Join(packaging.Dists(), ", ")+", separated by commas")
	flags.BoolVar(&o.Quick, "quick", false, "compress quickly instead of well: for a package that is not published")
	out := flags.String("out", "dist", "`directory` to write to")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	seconds, err := strconv.ParseInt(epoch, 10, 64)
	if err != nil {
		fmt.Fprintf(stderr, "cannot read SOURCE_DATE_EPOCH=%q: set it to seconds since 1970, for instance by git log -1 --format=%%ct\n", epoch)
		return 2
	}
	o.Time = time.Unix(seconds, 0)
	if flags.NArg() > 0 || o.Binary == "" || o.Version == "" {
		fmt.Fprintln(stderr, "cannot build a package: --binary and --version are needed, and nothing but flags")
		return 2
	}
	for _, o.Dist = range strings.Split(*dist, ",") {
		file, err := build(o, *out)
		if err != nil {
			fmt.Fprintln(stderr, err)
			return 1
		}
		fmt.Fprintln(stdout, file)
	}
	return 0
}

func build(o packaging.Options, dir string) (string, error) {
	p, err := packaging.Build(o)
	if err != nil {
		return "", err
	}
	data, err := packaging.Encode(p)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("cannot make the output directory: %w", err)
	}
	file := filepath.Join(dir, p.FileName())
	if err := os.WriteFile(file, data, 0o644); err != nil {
		return "", fmt.Errorf("cannot write the package: %w", err)
	}
	return file, nil
}
