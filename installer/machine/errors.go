package machine

import (
	"errors"
	"fmt"
)

// What kind of refusal an error of a Store is; errors.Is finds it. Their texts are never shown alone.
var (
	ErrInvalid  = errors.New("invalid")             // what was asked makes no sense
	ErrUnknown  = errors.New("unknown machine")     // nobody declared it
	ErrConflict = errors.New("not in this state")   // the machine's state forbids it
	ErrNoToken  = errors.New("no such token")       // the token is nobody's
	ErrSpent    = errors.New("token is spent")      // it was somebody's, and is used up, expired or revoked
	ErrBroken   = errors.New("store is not usable") // the disk failed; nothing more is accepted
)

// refusal is a sentence for an operator, of one of the kinds above.
type refusal struct {
	kind error
	text string
}

func (r *refusal) Error() string { return r.text }
func (r *refusal) Unwrap() error { return r.kind }

func refuse(kind error, format string, args ...any) error {
	return &refusal{kind, fmt.Sprintf(format, args...)}
}
