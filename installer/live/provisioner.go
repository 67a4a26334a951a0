package live

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"
)

const (
	callTimeout     = 30 * time.Second
	defaultPatience = 10 * time.Minute
	// maxAnswer bounds the claim's answer, which holds the machine's files.
	maxAnswer = 64 << 20
)

// ErrUnreachable is in errors of calls that no provisioner answered.
var ErrUnreachable = errors.New("not reachable")

// refusal is an answer that will not change when asked again.
type refusal struct {
	Status  int
	Message string
}

func (r *refusal) Error() string { return r.Message }

// ErrRefused is in errors of calls that the provisioner answered with a refusal.
var ErrRefused = errors.New("refused")

func (r *refusal) Is(target error) bool { return target == ErrRefused }

type provisioner struct {
	server   string
	client   *http.Client
	say      func(string, ...any)
	patience time.Duration
	first    time.Duration // between the first two attempts
}

func newProvisioner(server string, ca []byte, say func(string, ...any), patience time.Duration) (*provisioner, error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("cannot use %s: it holds no PEM certificate; run \"tectonic-installer apply\" and boot the machine again", PathCA)
	}
	if patience == 0 {
		patience = defaultPatience
	}
	return &provisioner{server: server, say: say, patience: patience, first: min(time.Second, patience/20), client: &http.Client{
		Timeout: callTimeout,
		// Neither a proxy of the environment nor a redirect may see a token. HTTP/1.1: one call at a time gains nothing from
		// HTTP/2, which costs a provisioner a third more for each machine that is being installed.
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// must tries until it is answered, for as long as p.patience.
func (p *provisioner) must(ctx context.Context, path, token string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, p.patience)
	defer cancel()
	said := ""
	for wait := p.first; ; wait = min(2*wait, 15*time.Second) {
		err := p.try(ctx, path, token, in, out)
		var final *refusal
		if err == nil || errors.As(err, &final) || hopeless(err) {
			return err
		}
		if ctx.Err() == nil && err.Error() != said {
			said = err.Error()
			p.say("%v; trying again for %s", err, p.patience)
		}
		// A thousand machines that lost the provisioner at once shall not come back at once.
		timer := time.NewTimer(wait/2 + rand.N(wait/2+1))
		select {
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("%w (tried for %s)", err, p.patience)
		case <-timer.C:
		}
	}
}

// hopeless tells what no waiting mends. An expired or not yet valid certificate is not: the clock may still be set.
func hopeless(err error) bool {
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	return errors.As(err, &unknown) || errors.As(err, &name)
}

func (p *provisioner) try(ctx context.Context, path, token string, in, out any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, p.server+path, bytes.NewReader(encode(in)))
	if err != nil {
		return fmt.Errorf("cannot call %s: %w", p.server, err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := p.client.Do(request)
	if err != nil {
		return fmt.Errorf("cannot reach %s: %w%s: %w", p.server, err, advice(err), ErrUnreachable)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	switch {
	case err != nil:
		return fmt.Errorf("cannot read the answer of %s: %w: %w", p.server, err, ErrUnreachable)
	case len(body) > maxAnswer:
		return &refusal{response.StatusCode, fmt.Sprintf("the answer of %s is larger than %d bytes", p.server, maxAnswer)}
	case response.StatusCode == http.StatusOK || response.StatusCode == http.StatusNoContent:
		if len(bytes.TrimSpace(body)) == 0 {
			return nil
		}
		if err := json.Unmarshal(body, out); err != nil {
			// Not the body: it may hold secrets.
			return &refusal{response.StatusCode, fmt.Sprintf("the answer of %s is not the expected JSON", p.server)}
		}
		return nil
	}
	var said struct {
		Error string `json:"error"`
	}
	if json.Unmarshal(body, &said) != nil || said.Error == "" {
		said.Error = strings.ToLower(http.StatusText(response.StatusCode))
	}
	message := fmt.Sprintf("%s says: %s (%d)", p.server, printable(said.Error, 500), response.StatusCode)
	switch response.StatusCode {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return fmt.Errorf("%s: %w", message, ErrUnreachable)
	case http.StatusUnauthorized, http.StatusGone:
		message += "; arm the machine again and boot it from the network"
	}
	return &refusal{response.StatusCode, message}
}

// advice is what to do about an error of TLS, as far as that is known.
func advice(err error) string {
	var invalid x509.CertificateInvalidError
	if errors.As(err, &invalid) && invalid.Reason == x509.Expired {
		return fmt.Sprintf(" (this machine's clock says %s: set it in the firmware, or renew the certificate with \"tectonic-installer certs rotate\")", time.Now().UTC().Format(time.RFC3339))
	}
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &unknown) {
		return " (the certificate is not of the authority in " + PathCA + ": run \"tectonic-installer apply\" after the authority has changed)"
	}
	return ""
}
