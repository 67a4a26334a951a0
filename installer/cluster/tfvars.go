package cluster

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

// tfvar is a variable's value: a word or a list of words. Numbers and booleans are words.
type tfvar struct {
	line int
	word string
	list []string // not nil for a list
	odd  string   // what it is when it is neither
}

// set says that it has a value at all: null, false, "" and [] stand for none.
func (v tfvar) set() bool {
	return v.word != "" && v.word != "false" || len(v.list) > 0 || v.odd != ""
}

// readTFVars reads JSON or HCL. The GUI writes JSON into a file named like one of HCL, so the content decides. Errors
// name a line and never quote it: passwords and keys stand in these files.
func readTFVars(file string, data []byte) (map[string]tfvar, error) {
	if len(data) > mostText {
		return nil, Findings{{File: file, Message: "it is larger than variables are; give the terraform.tfvars of a cluster", Severity: Error}}
	}
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	if text := bytes.TrimSpace(data); len(text) > 0 && text[0] == '{' {
		return readJSON(file, data, true)
	}
	return readHCL(file, data)
}

func readJSON(file string, data []byte, outer bool) (map[string]tfvar, error) {
	lineAt := func(offset int64) int { return 1 + bytes.Count(data[:min(int(offset), len(data))], []byte("\n")) }
	broken := func(err error, offset int64) error {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			offset = syntax.Offset
		}
		return Findings{{File: file, Line: lineAt(offset), Message: "it is not valid JSON from here on; the copy may be incomplete: copy it again", Severity: Error}}
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if _, err := d.Token(); err != nil {
		return nil, broken(err, d.InputOffset())
	}
	values := map[string]tfvar{}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, broken(err, d.InputOffset())
		}
		line := lineAt(d.InputOffset())
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return nil, broken(err, d.InputOffset())
		}
		name, _ := key.(string)
		if name == "variables" && outer && len(raw) > 0 && raw[0] == '{' {
			return readJSON(file, raw, false) // what the GUI sends to its own server
		}
		values[name] = jsonVar(raw, line)
	}
	if _, err := d.Token(); err != nil {
		return nil, broken(err, d.InputOffset())
	}
	return values, nil
}

func jsonVar(raw json.RawMessage, line int) tfvar {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var value any
	if err := d.Decode(&value); err != nil {
		return tfvar{line: line, odd: "not a value"}
	}
	v := tfvar{line: line}
	switch value := value.(type) {
	case nil:
	case []any:
		v.list = []string{}
		for _, entry := range value {
			switch entry.(type) {
			case map[string]any, []any, nil:
				return tfvar{line: line, odd: "a list of other things than words"}
			}
			v.list = append(v.list, fmt.Sprint(entry))
		}
	case map[string]any:
		if len(value) > 0 {
			v.odd = "a map"
		}
	default:
		v.word = fmt.Sprint(value)
	}
	return v
}

func readHCL(file string, data []byte) (map[string]tfvar, error) {
	fail := func(line int, message string) error {
		return Findings{{File: file, Line: line, Message: message, Severity: Error}}
	}
	if line, ok := tooDeep(data); ok {
		return nil, fail(line, "it nests deeper than variables do; correct it there")
	}
	// The parser's summary is a fixed text; its detail may quote the file.
	parsed, diags := hclsyntax.ParseConfig(data, file, hcl.InitialPos)
	for _, d := range diags {
		if d.Severity == hcl.DiagError {
			line := 1
			if d.Subject != nil {
				line = d.Subject.Start.Line
			}
			return nil, fail(line, d.Summary+"; it must read as Terraform 0.12 and later read variables: correct it there")
		}
	}
	body, ok := parsed.Body.(*hclsyntax.Body)
	if !ok {
		return nil, fail(0, "it cannot be read as variables")
	}
	values := map[string]tfvar{}
	for name, attribute := range body.Attributes {
		line := attribute.SrcRange.Start.Line
		value, diags := attribute.Expr.Value(nil)
		if diags.HasErrors() || !value.IsWhollyKnown() {
			values[name] = tfvar{line: line, odd: "an expression"}
			continue
		}
		values[name] = ctyVar(value, line)
	}
	return values, nil
}

func ctyVar(value cty.Value, line int) tfvar {
	v := tfvar{line: line}
	if value.IsNull() {
		return v
	}
	if word, ok := ctyWord(value); ok {
		v.word = word
		return v
	}
	if t := value.Type(); !t.IsTupleType() && !t.IsListType() && !t.IsSetType() {
		if value.CanIterateElements() && value.LengthInt() > 0 {
			v.odd = "a map"
		}
		return v
	}
	v.list = []string{}
	for i := value.ElementIterator(); i.Next(); {
		_, entry := i.Element()
		word, ok := ctyWord(entry)
		if !ok {
			return tfvar{line: line, odd: "a list of other things than words"}
		}
		v.list = append(v.list, word)
	}
	return v
}

func ctyWord(value cty.Value) (string, bool) {
	switch {
	case value.IsNull():
		return "", false
	case value.Type() == cty.String:
		return value.AsString(), true
	case value.Type() == cty.Bool:
		return fmt.Sprint(value.True()), true
	case value.Type() == cty.Number:
		return value.AsBigFloat().Text('f', -1), true
	}
	return "", false
}

// tooDeep refuses what would make the recursive parser exhaust the stack, which a program does not survive. Variables
// are literals: a list of maps of words at the deepest.
func tooDeep(data []byte) (line int, deep bool) {
	const limit = 50
	tokens, _ := hclsyntax.LexConfig(data, "", hcl.InitialPos)
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

// The words of a list variable, also when it was written as one word with commas.
func (v tfvar) words() []string {
	if v.list != nil {
		return v.list
	}
	return strings.FieldsFunc(v.word, func(r rune) bool { return r == ',' || r == ' ' })
}
