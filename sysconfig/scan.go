package sysconfig

import "strings"

type kind int

const (
	assignment kind = iota
	comment
	junk // a line without "="
)

// item is a stretch of the file: data[start:end], without the line break that ends it.
type item struct {
	kind       kind
	key, value string // junk keeps its text in key
	start, end int
	line       int
	odd        bool // read differently by systemd's releases
	open       byte // the quote that is still open at the end of the file, or 0
}

type state int

const (
	preKey state = iota
	inKey
	preValue
	inValue
	valueEscape
	singleQuote
	doubleQuote
	doubleQuoteEscape
	inComment
	commentEscape
)

// scanned is a file taken apart.
type scanned struct {
	items []item
	last  state // the state after the last byte
}

const (
	newlines   = "\n\r"
	whitespace = " \t\n\r"
	// escapable are the characters for which a backslash in double quotes is removed since systemd 240.
	escapable = "\"\\`$"
)

// scan walks data through the state machine by which systemd 240 to 253 reads an environment file.
// It keeps everything, also what systemd would drop afterwards.
func scan(data []byte) scanned {
	var (
		items      []item
		cur        item
		key, value []byte
		trimKey    = -1 // where the key's trailing white space begins
		trimValue  = -1
		st         = preKey
		line       = 1
		// A comment that a backslash has carried over to the next line; what comes first on that
		// line decides whether systemd 254, which does not carry it over, reads something else.
		carried bool
	)
	flush := func(end int) {
		if trimKey >= 0 {
			key = key[:trimKey]
		}
		if st == inValue && trimValue >= 0 {
			value = value[:trimValue]
		}
		cur.key, cur.value, cur.end = string(key), string(value), end
		items = append(items, cur)
		st = preKey
	}
	for i, c := range data {
		isNewline, isSpace := strings.IndexByte(newlines, c) >= 0, strings.IndexByte(whitespace, c) >= 0
		switch st {
		case preKey:
			if c == '#' || c == ';' {
				st = inComment
				cur = item{kind: comment, start: i, line: line}
			} else if !isSpace {
				st = inKey
				cur = item{kind: assignment, start: i, line: line}
				key, value = append(key[:0], c), value[:0]
				trimKey, trimValue = -1, -1
			}
		case inKey:
			switch {
			case isNewline:
				cur.kind = junk
				flush(i)
			case c == '=':
				st = preValue
			default:
				key, trimKey = appendTrimmed(key, c, isSpace, trimKey)
			}
		case preValue:
			switch {
			case isNewline:
				flush(i)
			case c == '\'':
				st, cur.open = singleQuote, c
			case c == '"':
				st, cur.open = doubleQuote, c
			case c == '\\':
				st = valueEscape
			case !isSpace:
				st = inValue
				value = append(value, c)
			}
		case inValue:
			switch {
			case isNewline:
				flush(i)
			case c == '\\':
				st, trimValue = valueEscape, -1
			default:
				value, trimValue = appendTrimmed(value, c, isSpace, trimValue)
			}
		case valueEscape:
			st = inValue
			if !isNewline {
				value = append(value, c)
			}
		case singleQuote:
			if c == '\'' {
				st, cur.open = preValue, 0
				break
			}
			cur.odd = cur.odd || c == '\\'
			value = append(value, c)
		case doubleQuote:
			switch c {
			case '"':
				st, cur.open = preValue, 0
			case '\\':
				st = doubleQuoteEscape
			default:
				value = append(value, c)
			}
		case doubleQuoteEscape:
			st = doubleQuote
			switch {
			case strings.IndexByte(escapable, c) >= 0:
				value = append(value, c)
			case c != '\n':
				cur.odd = true
				value = append(value, '\\', c)
			}
		case inComment:
			if carried && !isSpace {
				carried = false
				if c != '#' && c != ';' {
					cur.odd, cur.line = true, line
				}
			}
			switch {
			case c == '\\':
				st = commentEscape
			case isNewline:
				carried = false
				cur.end = i
				items = append(items, cur)
				st = preKey
			}
		case commentEscape:
			st = inComment
			carried = c == '\n'
		}
		if c == '\n' {
			line++
		}
	}
	last := st
	switch st {
	case preKey:
	case inComment, commentEscape:
		cur.end = len(data)
		items = append(items, cur)
	case inKey:
		cur.kind = junk
		flush(len(data))
	default:
		flush(len(data))
	}
	return scanned{items: items, last: last}
}

// appendTrimmed appends c and keeps track of where the white space at the end begins (-1: none).
func appendTrimmed(b []byte, c byte, isSpace bool, trim int) ([]byte, int) {
	if !isSpace {
		trim = -1
	} else if trim < 0 {
		trim = len(b)
	}
	return append(b, c), trim
}
