#!/bin/sh
# generate.sh: Go code from the proto files. Needs protoc (Debian: protobuf-compiler); the plugins are go.mod's tools.
set -eu
cd "$(dirname "$0")/../.."

plugins=$(mktemp -d)
trap 'rm -rf "$plugins"' EXIT
go build -o "$plugins/" google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc

PATH="$plugins:$PATH" protoc \
	--go_out=. --go_opt=module=github.com/tectonic-worker/tectonic-worker \
	--go-grpc_out=. --go-grpc_opt=module=github.com/tectonic-worker/tectonic-worker \
	installer/matchbox/proto/storage.proto installer/matchbox/proto/messages.proto installer/matchbox/proto/rpc.proto
