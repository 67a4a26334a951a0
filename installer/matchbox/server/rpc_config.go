package server

import (
	"bytes"
	"context"
	"fmt"

	"github.com/tectonic-worker/tectonic-worker/installer/matchbox/rpcpb"
	"github.com/tectonic-worker/tectonic-worker/installer/matchbox/serverpb"
)

type ignitionServer struct {
	rpcpb.UnimplementedIgnitionServer
	*Server
}

func (s ignitionServer) IgnitionPut(_ context.Context, r *serverpb.IgnitionPutRequest) (*serverpb.IgnitionPutResponse, error) {
	return &serverpb.IgnitionPutResponse{}, s.putConfig(ignition, r.GetName(), r.GetConfig())
}

func (s ignitionServer) IgnitionGet(_ context.Context, r *serverpb.IgnitionGetRequest) (*serverpb.IgnitionGetResponse, error) {
	body, err := s.getConfig(ignition, r.GetName())
	return &serverpb.IgnitionGetResponse{Config: body}, err
}

func (s ignitionServer) IgnitionDelete(_ context.Context, r *serverpb.IgnitionDeleteRequest) (*serverpb.IgnitionDeleteResponse, error) {
	return &serverpb.IgnitionDeleteResponse{}, s.delete(ignition, r.GetName())
}

type genericServer struct {
	rpcpb.UnimplementedGenericServer
	*Server
}

func (s genericServer) GenericPut(_ context.Context, r *serverpb.GenericPutRequest) (*serverpb.GenericPutResponse, error) {
	return &serverpb.GenericPutResponse{}, s.putConfig(generic, r.GetName(), r.GetConfig())
}

func (s genericServer) GenericGet(_ context.Context, r *serverpb.GenericGetRequest) (*serverpb.GenericGetResponse, error) {
	body, err := s.getConfig(generic, r.GetName())
	return &serverpb.GenericGetResponse{Config: body}, err
}

func (s genericServer) GenericDelete(_ context.Context, r *serverpb.GenericDeleteRequest) (*serverpb.GenericDeleteResponse, error) {
	return &serverpb.GenericDeleteResponse{}, s.delete(generic, r.GetName())
}

func (s *Server) putConfig(k kind, name string, body []byte) error {
	if err := checkID(k, name); err != nil {
		return invalid(err)
	}
	if err := checkConfig(k, name, body); err != nil {
		return invalid(fmt.Errorf("the %s %q is refused: %w", k.object(), name, err))
	}
	if err := s.store.put(k, name, body); err != nil {
		return failed(err)
	}
	return nil
}

// checkConfig refuses a config that no machine could be served, whatever its group's metadata.
func checkConfig(k kind, name string, body []byte) error {
	if k == ignition && raw(name) {
		return checkIgnition(body)
	}
	if _, err := parseTemplate(body); err != nil {
		return err
	}
	if k == ignition && !bytes.Contains(body, []byte("{{")) {
		if _, err := translateButane(body); err != nil {
			return fmt.Errorf("it is no Butane config, and its name does not end in .ign: %w", err)
		}
	}
	return nil
}

func (s *Server) getConfig(k kind, name string) ([]byte, error) {
	if err := checkID(k, name); err != nil {
		return nil, invalid(err)
	}
	t := s.store.index.text(k, name)
	if t == nil {
		return nil, missing(k, name)
	}
	return t.body, nil
}
