package matchbox

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tectonic-worker/tectonic-worker/installer/matchbox/serverpb"
)

// Pauses between repetitions of a call.
const (
	firstPause   = 100 * time.Millisecond
	longestPause = 2 * time.Second
)

// call does one call, again and again while that may help, until the client's timeout or the caller's.
func call[T any](ctx context.Context, c *Client, doing, id string, once func(context.Context) (T, error)) (T, error) {
	begun := time.Now()
	bounded, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	pause := firstPause
	for tries := 1; ; tries++ {
		answer, err := attempt(bounded, once)
		if err == nil {
			return answer, nil
		}
		var none T
		if ctx.Err() != nil {
			return none, fmt.Errorf("%w (%w)", c.describe(doing, id, err), context.Cause(ctx))
		}
		if !retryable(err) {
			return none, c.describe(doing, id, err)
		}
		described := c.describe(doing, id, err)
		// gRPC's own text for it is often no cause at all. A server that is there but not to be trusted stays so.
		if status.Code(err) == codes.Unavailable && bounded.Err() == nil {
			_, cause := attempt(bounded, func(ctx context.Context) (struct{}, error) { return struct{}{}, c.probe(ctx) })
			if cause != nil {
				described = fmt.Errorf("cannot %s: %w", subject(doing, id), cause)
				if errors.Is(cause, ErrUntrusted) {
					return none, described
				}
			}
		}
		timer := time.NewTimer(pause + time.Duration(rand.Int64N(int64(pause)/2)))
		select {
		case <-timer.C:
		case <-bounded.Done():
			timer.Stop()
			return none, fmt.Errorf("%w (tried %d times in %s)", described, tries, time.Since(begun).Round(100*time.Millisecond))
		}
		pause = min(2*pause, longestPause)
	}
}

func attempt[T any](ctx context.Context, once func(context.Context) (T, error)) (T, error) {
	bounded, cancel := context.WithTimeout(ctx, oneTry)
	defer cancel()
	return once(bounded)
}

// CheckID refuses what cannot be the name of a file below one directory of matchbox's: matchbox itself lets an id such
// as "../profiles/x" reach into another one.
func CheckID(id string) error {
	switch {
	case id == "":
		return errors.New("an id must not be empty")
	case len(id) > 200:
		return fmt.Errorf("the id %s … is longer than 200 bytes; it becomes a file name", quote(id))
	case strings.HasPrefix(id, "."), strings.ContainsAny(id, "/\\"):
		return fmt.Errorf("the id %s is not a plain file name: it must not begin with a dot or hold a slash", quote(id))
	}
	for _, r := range id {
		if r < ' ' || r == 0x7f || r == '\uFFFD' {
			return fmt.Errorf("the id %s holds a control character", quote(id))
		}
	}
	return nil
}

// put, get and remove do what every kind has in common.
func put(ctx context.Context, c *Client, what, id string, once func(context.Context) error) error {
	if err := CheckID(id); err != nil {
		return fmt.Errorf("cannot write %s in matchbox: %w", what, err)
	}
	_, err := call(ctx, c, "write "+what, id, func(ctx context.Context) (struct{}, error) { return struct{}{}, once(ctx) })
	return err
}

func get[T any](ctx context.Context, c *Client, what, id string, once func(context.Context) (T, error)) (T, error) {
	if err := CheckID(id); err != nil {
		var none T
		return none, fmt.Errorf("cannot read %s from matchbox: %w", what, err)
	}
	return call(ctx, c, "read "+what, id, once)
}

// remove takes "it is not there" for done: a repetition meets its own success that way.
func remove(ctx context.Context, c *Client, what, id string, once func(context.Context) error) error {
	if err := CheckID(id); err != nil {
		return fmt.Errorf("cannot delete %s from matchbox: %w", what, err)
	}
	_, err := call(ctx, c, "delete "+what, id, func(ctx context.Context) (struct{}, error) { return struct{}{}, once(ctx) })
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// list takes a directory that matchbox has not made yet for an empty one.
func list[T any](ctx context.Context, c *Client, what string, once func(context.Context) ([]T, error)) ([]T, error) {
	all, err := call(ctx, c, "list "+what, "", once)
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	return all, err
}

// GroupPut creates or overwrites a group.
func (c *Client) GroupPut(ctx context.Context, g Group) error {
	return put(ctx, c, "group", g.ID, func(ctx context.Context) error {
		_, err := c.groups.GroupPut(ctx, &serverpb.GroupPutRequest{Group: g.Proto()})
		return err
	})
}

// GroupGet reads a group; ErrNotFound when there is none.
func (c *Client) GroupGet(ctx context.Context, id string) (Group, error) {
	answer, err := get(ctx, c, "group", id, func(ctx context.Context) (*serverpb.GroupGetResponse, error) {
		return c.groups.GroupGet(ctx, &serverpb.GroupGetRequest{Id: id})
	})
	if err != nil {
		return Group{}, err
	}
	return GroupFromProto(answer.GetGroup())
}

// GroupDelete removes a group; that there is none is no error.
func (c *Client) GroupDelete(ctx context.Context, id string) error {
	return remove(ctx, c, "group", id, func(ctx context.Context) error {
		_, err := c.groups.GroupDelete(ctx, &serverpb.GroupDeleteRequest{Id: id})
		return err
	})
}

// GroupList reads all groups that matchbox could read itself. One whose metadata is not a JSON object comes without it.
func (c *Client) GroupList(ctx context.Context) ([]Group, error) {
	return list(ctx, c, "groups", func(ctx context.Context) ([]Group, error) {
		answer, err := c.groups.GroupList(ctx, &serverpb.GroupListRequest{})
		var all []Group
		for _, p := range answer.GetGroups() {
			g, err := GroupFromProto(p)
			if err != nil {
				p.Metadata = nil
				g, _ = GroupFromProto(p)
			}
			all = append(all, g)
		}
		return all, err
	})
}

// ProfilePut creates or overwrites a profile.
func (c *Client) ProfilePut(ctx context.Context, p Profile) error {
	return put(ctx, c, "profile", p.ID, func(ctx context.Context) error {
		_, err := c.profiles.ProfilePut(ctx, &serverpb.ProfilePutRequest{Profile: p.Proto()})
		return err
	})
}

// ProfileGet reads a profile; ErrNotFound when there is none.
func (c *Client) ProfileGet(ctx context.Context, id string) (Profile, error) {
	answer, err := get(ctx, c, "profile", id, func(ctx context.Context) (*serverpb.ProfileGetResponse, error) {
		return c.profiles.ProfileGet(ctx, &serverpb.ProfileGetRequest{Id: id})
	})
	return ProfileFromProto(answer.GetProfile()), err
}

// ProfileDelete removes a profile; that there is none is no error.
func (c *Client) ProfileDelete(ctx context.Context, id string) error {
	return remove(ctx, c, "profile", id, func(ctx context.Context) error {
		_, err := c.profiles.ProfileDelete(ctx, &serverpb.ProfileDeleteRequest{Id: id})
		return err
	})
}

// ProfileList reads all profiles that matchbox could read itself.
func (c *Client) ProfileList(ctx context.Context) ([]Profile, error) {
	return list(ctx, c, "profiles", func(ctx context.Context) ([]Profile, error) {
		answer, err := c.profiles.ProfileList(ctx, &serverpb.ProfileListRequest{})
		var all []Profile
		for _, p := range answer.GetProfiles() {
			all = append(all, ProfileFromProto(p))
		}
		return all, err
	})
}

// IgnitionPut creates or overwrites a config below ignition/. A name that ends in .ign is finished Ignition; matchbox
// takes any other for a template.
func (c *Client) IgnitionPut(ctx context.Context, name string, config []byte) error {
	return put(ctx, c, "Ignition config", name, func(ctx context.Context) error {
		_, err := c.ignition.IgnitionPut(ctx, &serverpb.IgnitionPutRequest{Name: name, Config: config})
		return err
	})
}

// IgnitionGet reads a config as it was written; ErrNotFound when there is none.
func (c *Client) IgnitionGet(ctx context.Context, name string) ([]byte, error) {
	answer, err := get(ctx, c, "Ignition config", name, func(ctx context.Context) (*serverpb.IgnitionGetResponse, error) {
		return c.ignition.IgnitionGet(ctx, &serverpb.IgnitionGetRequest{Name: name})
	})
	return answer.GetConfig(), err
}

// IgnitionDelete removes a config; that there is none is no error.
func (c *Client) IgnitionDelete(ctx context.Context, name string) error {
	return remove(ctx, c, "Ignition config", name, func(ctx context.Context) error {
		_, err := c.ignition.IgnitionDelete(ctx, &serverpb.IgnitionDeleteRequest{Name: name})
		return err
	})
}

// GenericPut creates or overwrites a template below generic/.
func (c *Client) GenericPut(ctx context.Context, name string, config []byte) error {
	return put(ctx, c, "generic config", name, func(ctx context.Context) error {
		_, err := c.generic.GenericPut(ctx, &serverpb.GenericPutRequest{Name: name, Config: config})
		return err
	})
}

// GenericGet reads a template as it was written; ErrNotFound when there is none.
func (c *Client) GenericGet(ctx context.Context, name string) ([]byte, error) {
	answer, err := get(ctx, c, "generic config", name, func(ctx context.Context) (*serverpb.GenericGetResponse, error) {
		return c.generic.GenericGet(ctx, &serverpb.GenericGetRequest{Name: name})
	})
	return answer.GetConfig(), err
}

// GenericDelete removes a template; that there is none is no error.
func (c *Client) GenericDelete(ctx context.Context, name string) error {
	return remove(ctx, c, "generic config", name, func(ctx context.Context) error {
		_, err := c.generic.GenericDelete(ctx, &serverpb.GenericDeleteRequest{Name: name})
		return err
	})
}

// SelectGroup says which group a machine with these labels gets; ErrNotFound when none matches. A MAC address may be in
// any notation: matchbox makes them one in HTTP requests, but not here.
func (c *Client) SelectGroup(ctx context.Context, labels map[string]string) (Group, error) {
	answer, err := call(ctx, c, "select a group", "", func(ctx context.Context) (*serverpb.SelectGroupResponse, error) {
		return c.choose.SelectGroup(ctx, &serverpb.SelectGroupRequest{Labels: normalSelector(labels)})
	})
	if err != nil {
		return Group{}, err
	}
	return GroupFromProto(answer.GetGroup())
}

// SelectProfile says which profile a machine with these labels gets; ErrNotFound when no group matches or its profile is
// missing. For MAC addresses see SelectGroup.
func (c *Client) SelectProfile(ctx context.Context, labels map[string]string) (Profile, error) {
	answer, err := call(ctx, c, "select a profile", "", func(ctx context.Context) (*serverpb.SelectProfileResponse, error) {
		return c.choose.SelectProfile(ctx, &serverpb.SelectProfileRequest{Labels: normalSelector(labels)})
	})
	return ProfileFromProto(answer.GetProfile()), err
}
