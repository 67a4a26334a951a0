package node

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
)

// attempts bounds how often one call is made in all; Limits.Call bounds it in time.
const attempts = 6

// get decodes the answer to one request.
func (c *Client) get(ctx context.Context, op string, r *rest.Request, into runtime.Object) error {
	_, err := c.do(ctx, op, r, func(result rest.Result) error { return result.Into(into) })
	return err
}

// raw returns the body of the answer to one request.
func (c *Client) raw(ctx context.Context, op string, r *rest.Request) ([]byte, *exchange, error) {
	var body []byte
	ex, err := c.do(ctx, op, r, func(result rest.Result) error {
		body, _ = result.Raw()
		return result.Error() // Raw's own error lacks what the server said
	})
	return body, ex, err
}

// do makes a call. It repeats only what the server itself calls temporary, 429 and 5xx, waiting as long as the server asks or
// else with exponential backoff, and gives up early where the wait would not fit into the deadline.
func (c *Client) do(ctx context.Context, op string, r *rest.Request, use func(rest.Result) error) (*exchange, error) {
	ctx, cancel := context.WithTimeout(ctx, c.limits.Call)
	defer cancel()
	r.MaxRetries(0)
	renewed := false
	for n := 1; ; n++ {
		ctx, ex := withExchange(ctx)
		err := use(r.Do(ctx))
		if err == nil {
			return ex, nil
		}
		failed := c.explain(ctx, op, ex, err)
		if failed.Reason == Unauthorized && c.k.cred.again != nil && !renewed {
			// The kubelet may have renewed the certificate since this connection was made.
			renewed = true
			c.Close()
			continue
		}
		wait := backoff(n, 250*time.Millisecond, 8*time.Second)
		if failed.RetryAfter > wait {
			wait = failed.RetryAfter
		}
		deadline, _ := ctx.Deadline()
		if n == attempts || !temporaryStatus(failed.Status) || time.Until(deadline) < wait {
			return ex, failed
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ex, failed
		}
	}
}

func temporaryStatus(status int) bool {
	switch status {
	case http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// backoff is exponential with jitter: a random time between the half and the whole of first·2ⁿ⁻¹, at most limit.
func backoff(n int, first, limit time.Duration) time.Duration {
	d := limit
	if n < 16 {
		d = min(first<<(n-1), limit)
	}
	return d/2 + rand.N(d/2+1)
}

// statusOf is the HTTP status and the server's own sentence in an error of the REST client.
func statusOf(err error, ex *exchange) (status int, message string) {
	var s apierrors.APIStatus
	if errors.As(err, &s) {
		return int(s.Status().Code), clean(s.Status().Message)
	}
	if ex.status >= 300 {
		return ex.status, ""
	}
	return 0, ""
}
