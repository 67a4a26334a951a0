package server

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/tectonic-worker/tectonic-worker/installer/matchbox"
	"github.com/tectonic-worker/tectonic-worker/installer/matchbox/rpcpb"
	"github.com/tectonic-worker/tectonic-worker/installer/matchbox/serverpb"
	"github.com/tectonic-worker/tectonic-worker/installer/matchbox/storagepb"
)

// RegisterGRPC adds the operators' API to a gRPC server, whose TLS configuration says who is an operator.
//
// What is wrong with a request is InvalidArgument, what is not there NotFound, where matchbox says Unknown to both. To
// delete what is not there succeeds: a client that was interrupted may ask again.
func (s *Server) RegisterGRPC(g *grpc.Server) {
	rpcpb.RegisterGroupsServer(g, groupsServer{Server: s})
	rpcpb.RegisterProfilesServer(g, profilesServer{Server: s})
	rpcpb.RegisterIgnitionServer(g, ignitionServer{Server: s})
	rpcpb.RegisterGenericServer(g, genericServer{Server: s})
	rpcpb.RegisterSelectServer(g, selectServer{Server: s})
}

// ServerOptions log and count the calls.
func (s *Server) ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{grpc.ChainUnaryInterceptor(s.observeCall), grpc.ConnectionTimeout(20 * time.Second)}
}

func (s *Server) observeCall(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	began := time.Now()
	if s.options.Instance != "" {
		_ = grpc.SetHeader(ctx, metadata.Pairs(matchbox.InstanceHeader, s.options.Instance))
	}
	response, err := handle(ctx, req)
	method := info.FullMethod[strings.LastIndexByte(info.FullMethod, '/')+1:]
	s.figures.calls.WithLabelValues(method, status.Code(err).String()).Inc()
	attributes := []slog.Attr{slog.String("method", method), slog.String("code", status.Code(err).String()), slog.Duration("took", time.Since(began))}
	if id := callID(req); id != "" {
		attributes = append(attributes, slog.String("id", id))
	}
	if p, ok := peer.FromContext(ctx); ok {
		attributes = append(attributes, slog.String("remote", p.Addr.String()))
		if tls, ok := p.AuthInfo.(credentials.TLSInfo); ok && len(tls.State.PeerCertificates) > 0 {
			attributes = append(attributes, slog.String("client", tls.State.PeerCertificates[0].Subject.CommonName))
		}
	}
	if err != nil {
		attributes = append(attributes, slog.String("problem", status.Convert(err).Message()))
	}
	s.options.Log.LogAttrs(ctx, slog.LevelInfo, "call", attributes...)
	return response, err
}

// callID is the object that a call is about, bounded: it comes from outside.
func callID(req any) string {
	var id string
	switch req := req.(type) {
	case interface{ GetGroup() *storagepb.Group }:
		id = req.GetGroup().GetId()
	case interface{ GetProfile() *storagepb.Profile }:
		id = req.GetProfile().GetId()
	case interface{ GetId() string }:
		id = req.GetId()
	case interface{ GetName() string }:
		id = req.GetName()
	}
	return id[:min(len(id), 200)]
}

func invalid(err error) error { return status.Error(codes.InvalidArgument, err.Error()) }

func failed(err error) error { return status.Error(codes.Internal, err.Error()) }

func missing(k kind, id string) error {
	return status.Errorf(codes.NotFound, "there is no %s %q", k.object(), id)
}

func (s *Server) delete(k kind, id string) error {
	if err := checkID(k, id); err != nil {
		return invalid(err)
	}
	if err := s.store.remove(k, id); err != nil {
		return failed(err)
	}
	return nil
}

// groupProto is a group on the wire. matchbox says "null" for no metadata, and its Terraform provider reads it as JSON.
func groupProto(g matchbox.Group) *storagepb.Group {
	p := g.Proto()
	if len(p.Metadata) == 0 {
		p.Metadata = []byte("null")
	}
	return p
}

type groupsServer struct {
	rpcpb.UnimplementedGroupsServer
	*Server
}

func (s groupsServer) GroupPut(_ context.Context, r *serverpb.GroupPutRequest) (*serverpb.GroupPutResponse, error) {
	if err := checkID(groups, r.GetGroup().GetId()); err != nil {
		return nil, invalid(err)
	}
	g, err := checkGroup(r.GetGroup())
	if err != nil {
		return nil, invalid(fmt.Errorf("the group %q %w", r.GetGroup().GetId(), err))
	}
	if err := s.store.putGroup(g); err != nil {
		return nil, failed(err)
	}
	if s.store.index.profile(g.profile) == nil {
		s.options.Log.Warn("a group has a profile that does not exist (yet)", "group", g.id, "profile", g.profile)
	}
	if twin := s.store.index.twin(g); twin != "" {
		s.options.Log.Warn("two groups have the same selectors; the first by name is served", "group", g.id, "other", twin)
	}
	return &serverpb.GroupPutResponse{}, nil
}

// checkGroup refuses what could never match or be served.
func checkGroup(p *storagepb.Group) (*group, error) {
	wire, err := matchbox.GroupFromProto(p)
	if err != nil {
		return nil, fmt.Errorf("is refused: %w", err)
	}
	if wire.Profile == "" {
		return nil, fmt.Errorf("has no profile")
	}
	if err := checkID(profiles, wire.Profile); err != nil {
		return nil, fmt.Errorf("is refused: %w", err)
	}
	for key, value := range wire.Selector {
		if key == "" || oneLine(key) != key || oneLine(value) != value {
			return nil, fmt.Errorf("has the selector %q=%q, which no machine's label can equal: it is empty or has control characters", key, value)
		}
	}
	return newGroup(wire)
}

// twin is another group with the same selectors, if there is one.
func (x *index) twin(g *group) string {
	x.mu.RLock()
	defer x.mu.RUnlock()
	for other := x.sets[string(appendSet(nil, g.pairs))]; other != nil; other = other.next {
		if other.id != g.id {
			return other.id
		}
	}
	return ""
}

func (s groupsServer) GroupGet(_ context.Context, r *serverpb.GroupGetRequest) (*serverpb.GroupGetResponse, error) {
	if err := checkID(groups, r.GetId()); err != nil {
		return nil, invalid(err)
	}
	g := s.store.index.group(r.GetId())
	if g == nil {
		return nil, missing(groups, r.GetId())
	}
	return &serverpb.GroupGetResponse{Group: groupProto(g.wire())}, nil
}

func (s groupsServer) GroupDelete(_ context.Context, r *serverpb.GroupDeleteRequest) (*serverpb.GroupDeleteResponse, error) {
	return &serverpb.GroupDeleteResponse{}, s.delete(groups, r.GetId())
}

func (s groupsServer) GroupList(context.Context, *serverpb.GroupListRequest) (*serverpb.GroupListResponse, error) {
	out := &serverpb.GroupListResponse{}
	for _, g := range s.store.index.groupList() {
		out.Groups = append(out.Groups, groupProto(g))
	}
	return out, nil
}

type profilesServer struct {
	rpcpb.UnimplementedProfilesServer
	*Server
}

func (s profilesServer) ProfilePut(_ context.Context, r *serverpb.ProfilePutRequest) (*serverpb.ProfilePutResponse, error) {
	id := r.GetProfile().GetId()
	if err := checkID(profiles, id); err != nil {
		return nil, invalid(err)
	}
	p, err := newProfile(matchbox.ProfileFromProto(r.GetProfile()), true)
	if err != nil {
		return nil, invalid(fmt.Errorf("the profile %q %w", id, err))
	}
	for _, name := range []struct {
		kind kind
		id   string
	}{{ignition, p.IgnitionID}, {generic, p.GenericID}, {cloud, p.CloudID}} {
		if name.id == "" || nested(name.id) {
			continue
		}
		if err := checkID(name.kind, name.id); err != nil {
			return nil, invalid(fmt.Errorf("the profile %q is refused: %w", id, err))
		}
		if s.store.index.text(name.kind, name.id) == nil {
			s.options.Log.Warn("a profile has a config that does not exist (yet)", "profile", id, "config", directories[name.kind]+"/"+name.id)
		}
	}
	if err := s.store.putProfile(p); err != nil {
		return nil, failed(err)
	}
	return &serverpb.ProfilePutResponse{}, nil
}

func (s profilesServer) ProfileGet(_ context.Context, r *serverpb.ProfileGetRequest) (*serverpb.ProfileGetResponse, error) {
	if err := checkID(profiles, r.GetId()); err != nil {
		return nil, invalid(err)
	}
	p := s.store.index.profile(r.GetId())
	if p == nil {
		return nil, missing(profiles, r.GetId())
	}
	return &serverpb.ProfileGetResponse{Profile: p.Proto()}, nil
}

func (s profilesServer) ProfileDelete(_ context.Context, r *serverpb.ProfileDeleteRequest) (*serverpb.ProfileDeleteResponse, error) {
	return &serverpb.ProfileDeleteResponse{}, s.delete(profiles, r.GetId())
}

func (s profilesServer) ProfileList(context.Context, *serverpb.ProfileListRequest) (*serverpb.ProfileListResponse, error) {
	out := &serverpb.ProfileListResponse{}
	for _, p := range s.store.index.profileList() {
		out.Profiles = append(out.Profiles, p.Proto())
	}
	return out, nil
}

type selectServer struct {
	rpcpb.UnimplementedSelectServer
	*Server
}

func (s selectServer) SelectGroup(_ context.Context, r *serverpb.SelectGroupRequest) (*serverpb.SelectGroupResponse, error) {
	g, _ := s.store.index.choose(clean(maps.Clone(r.GetLabels())))
	if g == nil {
		return nil, status.Error(codes.NotFound, "matchbox: No matching Group")
	}
	return &serverpb.SelectGroupResponse{Group: groupProto(g.wire())}, nil
}

func (s selectServer) SelectProfile(_ context.Context, r *serverpb.SelectProfileRequest) (*serverpb.SelectProfileResponse, error) {
	_, p := s.store.index.choose(clean(maps.Clone(r.GetLabels())))
	if p == nil {
		return nil, status.Error(codes.NotFound, "matchbox: No matching Profile")
	}
	return &serverpb.SelectProfileResponse{Profile: p.Proto()}, nil
}
