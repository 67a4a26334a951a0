package sysconfig

import (
	"regexp"
	"strings"
)

var dnsLabel = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)

// subdomain says what keeps s from being a DNS subdomain as Kubernetes has it (RFC 1123, lower case),
// with labels no longer than DNS allows (RFC 1035); empty where nothing does.
func subdomain(s string) string {
	if len(s) > 253 {
		return "this is longer than the 253 characters a DNS name may have"
	}
	if strings.HasSuffix(s, ".") {
		return "the name ends in a dot"
	}
	for _, l := range strings.Split(s, ".") {
		switch {
		case len(l) > 63:
			return "a part of the name is longer than 63 characters"
		case l != "" && l != strings.ToLower(l) && dnsLabel.MatchString(strings.ToLower(l)):
			return "the name has upper case letters"
		case !dnsLabel.MatchString(l):
			return "this is not a DNS name"
		}
	}
	return ""
}

var (
	nameForm  = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$`)
	labelForm = "must be letters, digits, -, _ and ., and begin and end with a letter or digit"
)

// qualifiedName says what keeps s from being the key of a label or taint: an optional DNS subdomain
// and a slash, then a name (Kubernetes, "Labels and Selectors: syntax and character set").
func qualifiedName(s string) string {
	name := s
	if prefix, rest, found := strings.Cut(s, "/"); found {
		if why := subdomain(prefix); why != "" {
			return "has a prefix that is not a DNS name"
		}
		name = rest
	}
	return labelText(name)
}

// labelValue says what keeps s from being a label's value, which may be empty.
func labelValue(s string) string {
	if s == "" {
		return ""
	}
	return labelText(s)
}

func labelText(s string) string {
	switch {
	case s == "":
		return "is empty"
	case len(s) > 63:
		return "is longer than 63 characters"
	case !nameForm.MatchString(s):
		return labelForm
	}
	return ""
}
