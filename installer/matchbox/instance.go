package matchbox

import (
	"context"
	"errors"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/tectonic-worker/tectonic-worker/installer/matchbox/serverpb"
)

// InstanceHeader is in the answers of a server that keeps machines' states: it names that server. matchbox sends none.
const InstanceHeader = "tectonic-instance"

// Instance names the server behind the API, if it keeps machines' states; empty: it is a matchbox, which serves whatever
// is written to it to every machine that asks.
func (c *Client) Instance(ctx context.Context) (string, error) {
	var header metadata.MD
	_, err := call(ctx, c, "ask which server this is", "", func(ctx context.Context) (*serverpb.SelectGroupResponse, error) {
		return c.choose.SelectGroup(ctx, &serverpb.SelectGroupRequest{}, grpc.Header(&header))
	})
	if err != nil && !errors.Is(err, ErrNotFound) {
		return "", err
	}
	if values := header.Get(InstanceHeader); len(values) > 0 {
		return values[0], nil
	}
	return "", nil
}
