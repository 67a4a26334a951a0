package assets

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

// The keys of terraform.tfvars that are looked at. The Tectonic Installer's GUI writes both; files written by hand lack the
// first, which is not a variable of the platform's modules.
const (
	DNSServiceIPKey = "tectonic_kube_dns_service_ip"
	ServiceCIDRKey  = "tectonic_service_cidr"
)

// A variable is the value of a key as a string, and where it was set. Null and the empty string count as not set.
type variable struct{ value, file string }

func dnsServiceIP(f found, top string) (ip netip.Addr, how string, err error) {
	var dns, cidr variable
	present := ""
	// Terraform loads the two in this order, and what comes later wins.
	for _, name := range []string{TFVarsPath, TFVarsJSONPath} {
		data, ok := f[path.Join(top, name)]
		if !ok {
			continue
		}
		present = name
		values, err := parseTFVars(data)
		if err != nil {
			return netip.Addr{}, "", fmt.Errorf("%s: %w", name, err)
		}
		if v := values[DNSServiceIPKey]; v != "" {
			dns = variable{v, name}
		}
		if v := values[ServiceCIDRKey]; v != "" {
			cidr = variable{v, name}
		}
	}
	if present == "" {
		return netip.Addr{}, "the assets have no " + TFVarsPath, nil
	}
	var services netip.Prefix
	if cidr.value != "" {
		if services, err = netip.ParsePrefix(cidr.value); err != nil {
			return netip.Addr{}, "", fmt.Errorf("%s: %s is %q, which is not a range of addresses such as 10.3.0.0/16; correct it there", cidr.file, ServiceCIDRKey, printable(cidr.value))
		}
		services = services.Masked()
	}
	switch {
	case dns.value != "":
		ip, err := netip.ParseAddr(dns.value)
		if err != nil || ip.Zone() != "" || !ip.IsGlobalUnicast() {
			return netip.Addr{}, "", fmt.Errorf("%s: %s is %q, which is not the address of a Service, such as 10.3.0.10; correct it there, or give the address with --dns-service-ip", dns.file, DNSServiceIPKey, printable(dns.value))
		}
		if services.IsValid() && !services.Contains(ip) {
			return netip.Addr{}, "", fmt.Errorf("%s: %s is %s, which is not within %s (%s); correct one of them", dns.file, DNSServiceIPKey, ip, ServiceCIDRKey, services)
		}
		return ip, DNSServiceIPKey + " in " + dns.file, nil
	case services.IsValid():
		tenth := services.Addr()
		for range 10 {
			tenth = tenth.Next()
		}
		if !tenth.IsValid() || !services.Contains(tenth) {
			return netip.Addr{}, "", fmt.Errorf("%s: %s is %s, which has no tenth address; give the DNS Service's address with --dns-service-ip", cidr.file, ServiceCIDRKey, services)
		}
		return tenth, fmt.Sprintf("the tenth address of %s (%s) in %s", ServiceCIDRKey, services, cidr.file), nil
	}
	return netip.Addr{}, fmt.Sprintf("%s has neither %s nor %s", present, DNSServiceIPKey, ServiceCIDRKey), nil
}

// parseTFVars reads the two keys from JSON or HCL. The GUI writes JSON into a file named like one of HCL, so the content
// decides. Errors name a line and never quote it.
func parseTFVars(data []byte) (map[string]string, error) {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	if text := bytes.TrimSpace(data); len(text) > 0 && text[0] == '{' {
		return parseJSON(data)
	}
	return parseHCL(data)
}

func parseJSON(data []byte) (map[string]string, error) {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(data, &all); err != nil {
		line := 0
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			line = 1 + bytes.Count(data[:min(int(syntax.Offset), len(data))], []byte("\n"))
		}
		return nil, fmt.Errorf("it is not valid JSON (line %d); the copy may be incomplete: copy it again", line)
	}
	values := map[string]string{}
	for _, key := range []string{DNSServiceIPKey, ServiceCIDRKey} {
		raw, ok := all[key]
		if !ok {
			continue
		}
		var s *string
		if err := json.Unmarshal(raw, &s); err != nil {
			return nil, fmt.Errorf("%s is not a string; correct it there", key)
		}
		if s != nil {
			values[key] = *s
		}
	}
	return values, nil
}

func parseHCL(data []byte) (map[string]string, error) {
	if line, ok := tooDeep(data); ok {
		return nil, fmt.Errorf("line %d: it nests deeper than variables do; correct it there", line)
	}
	// The parser's summary is a fixed text; its detail may quote the file.
	file, diags := hclsyntax.ParseConfig(data, TFVarsPath, hcl.InitialPos)
	for _, d := range diags {
		if d.Severity == hcl.DiagError {
			line := 1
			if d.Subject != nil {
				line = d.Subject.Start.Line
			}
			return nil, fmt.Errorf("line %d: %s; it must read as Terraform 0.12 and later read it: correct it there, or give the address with --dns-service-ip", line, d.Summary)
		}
	}
	body, ok := file.Body.(*hclsyntax.Body)
	if !ok {
		return nil, errors.New("it cannot be read as variables")
	}
	values := map[string]string{}
	for _, key := range []string{DNSServiceIPKey, ServiceCIDRKey} {
		attribute, ok := body.Attributes[key]
		if !ok {
			continue
		}
		value, diags := attribute.Expr.Value(nil)
		if diags.HasErrors() || !value.IsWhollyKnown() || !value.IsNull() && value.Type() != cty.String {
			return nil, fmt.Errorf("line %d: %s is not a plain string; correct it there", attribute.SrcRange.Start.Line, key)
		}
		if !value.IsNull() {
			values[key] = value.AsString()
		}
	}
	return values, nil
}

// tooDeep refuses what would make the recursive parser exhaust the stack, which a program does not survive. Variables are
// literals: a list of maps of strings at the deepest.
func tooDeep(data []byte) (line int, deep bool) {
	const limit = 50
	tokens, _ := hclsyntax.LexConfig(data, TFVarsPath, hcl.InitialPos)
	depth, signs, operators := 0, 0, 0
	for _, t := range tokens {
		switch t.Type {
		case hclsyntax.TokenOBrace, hclsyntax.TokenOBrack, hclsyntax.TokenOParen, hclsyntax.TokenOQuote, hclsyntax.TokenOHeredoc,
			hclsyntax.TokenTemplateInterp, hclsyntax.TokenTemplateControl:
			depth++
		case hclsyntax.TokenCBrace, hclsyntax.TokenCBrack, hclsyntax.TokenCParen, hclsyntax.TokenCQuote, hclsyntax.TokenCHeredoc,
			hclsyntax.TokenTemplateSeqEnd:
			depth--
		case hclsyntax.TokenBang, hclsyntax.TokenQuestion: // no literal has them
			operators++
		}
		switch t.Type {
		case hclsyntax.TokenMinus:
			signs++
		case hclsyntax.TokenNewline, hclsyntax.TokenComment:
		default:
			signs = 0
		}
		if max(depth, signs, operators) > limit {
			return t.Range.Start.Line, true
		}
	}
	return 0, false
}
