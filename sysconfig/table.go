package sysconfig

import (
	"fmt"
	"strings"
)

// Table describes the keys of one file as a Markdown table, for docs/settings.md.
func Table(file string) string {
	var b strings.Builder
	b.WriteString("| key | value | default | flag of `join` | what it is |\n| --- | --- | --- | --- | --- |\n")
	code := func(s string) string {
		if s == "" {
			return ""
		}
		return "`" + strings.ReplaceAll(s, "|", `\|`) + "`"
	}
	for _, k := range keys {
		if k.File != file {
			continue
		}
		flag := k.Flag
		if flag != "" {
			flag = "--" + flag
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", code(k.Name), code(k.Syntax), code(k.Default), code(flag), k.Help)
	}
	return b.String()
}
