// Package firewall opens and shuts ports in firewalld, over D-Bus.
//
// It owns the conversation with firewalld: names, signatures, deadlines, what an error means, and the sentences an
// operator reads when something is refused. Runtime and permanent configuration are two layers, written one by one.
//
// It must not run firewall-cmd, must not reload firewalld (a reload throws away rules that others made at runtime) and
// must not call runtimeToPermanent (that would keep strangers' rules for ever). It never starts or unmasks firewalld,
// never moves an interface or a source to another zone, and does not remember what it did: the caller's ledger does.
//
// The D-Bus interface is described in firewalld.dbus(5); every call here exists, with the same signature, in firewalld
// 0.4.4 to 2.x.
package firewall
