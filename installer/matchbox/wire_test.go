package matchbox_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/tectonic-worker/tectonic-worker/installer/matchbox/rpcpb"
	"github.com/tectonic-worker/tectonic-worker/installer/matchbox/serverpb"
	"github.com/tectonic-worker/tectonic-worker/installer/matchbox/storagepb"
)

// wire is what goes over the wire, as matchbox 0.7.0 to 0.11.0 has it: names, numbers and types of fields, and the paths
// of the calls. None of it may ever change.
const wire = `
/rpcpb.Generic/GenericDelete
/rpcpb.Generic/GenericGet
/rpcpb.Generic/GenericPut
/rpcpb.Groups/GroupDelete
/rpcpb.Groups/GroupGet
/rpcpb.Groups/GroupList
/rpcpb.Groups/GroupPut
/rpcpb.Ignition/IgnitionDelete
/rpcpb.Ignition/IgnitionGet
/rpcpb.Ignition/IgnitionPut
/rpcpb.Profiles/ProfileDelete
/rpcpb.Profiles/ProfileGet
/rpcpb.Profiles/ProfileList
/rpcpb.Profiles/ProfilePut
/rpcpb.Select/SelectGroup
/rpcpb.Select/SelectProfile
serverpb.GenericDeleteRequest.name = 1 string
serverpb.GenericGetRequest.name = 1 string
serverpb.GenericGetResponse.config = 1 bytes
serverpb.GenericPutRequest.config = 2 bytes
serverpb.GenericPutRequest.name = 1 string
serverpb.GroupDeleteRequest.id = 1 string
serverpb.GroupGetRequest.id = 1 string
serverpb.GroupGetResponse.group = 1 storagepb.Group
serverpb.GroupListResponse.groups = 1 repeated storagepb.Group
serverpb.GroupPutRequest.group = 1 storagepb.Group
serverpb.IgnitionDeleteRequest.name = 1 string
serverpb.IgnitionGetRequest.name = 1 string
serverpb.IgnitionGetResponse.config = 1 bytes
serverpb.IgnitionPutRequest.config = 2 bytes
serverpb.IgnitionPutRequest.name = 1 string
serverpb.ProfileDeleteRequest.id = 1 string
serverpb.ProfileGetRequest.id = 1 string
serverpb.ProfileGetResponse.profile = 1 storagepb.Profile
serverpb.ProfileListResponse.profiles = 1 repeated storagepb.Profile
serverpb.ProfilePutRequest.profile = 1 storagepb.Profile
serverpb.SelectGroupRequest.labels = 1 map<string, string>
serverpb.SelectGroupResponse.group = 1 storagepb.Group
serverpb.SelectProfileRequest.labels = 1 map<string, string>
serverpb.SelectProfileResponse.profile = 1 storagepb.Profile
storagepb.Group.id = 1 string
storagepb.Group.metadata = 5 bytes
storagepb.Group.name = 2 string
storagepb.Group.profile = 3 string
storagepb.Group.selector = 4 map<string, string>
storagepb.NetBoot.args = 4 repeated string
storagepb.NetBoot.initrd = 2 repeated string
storagepb.NetBoot.kernel = 1 string
storagepb.Profile.boot = 5 storagepb.NetBoot
storagepb.Profile.cloud_id = 4 string
storagepb.Profile.generic_id = 6 string
storagepb.Profile.id = 1 string
storagepb.Profile.ignition_id = 3 string
storagepb.Profile.name = 2 string
`

func TestWire(t *testing.T) {
	want := strings.Split(strings.TrimSpace(wire), "\n")
	var generated []string
	for _, file := range []protoreflect.FileDescriptor{rpcpb.File_installer_matchbox_proto_rpc_proto, serverpb.File_installer_matchbox_proto_messages_proto, storagepb.File_installer_matchbox_proto_storage_proto} {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				generated = append(generated, fmt.Sprintf("/%s/%s", service.FullName(), service.Methods().Get(j).Name()))
			}
		}
		for i := range file.Messages().Len() {
			fields := file.Messages().Get(i).Fields()
			for j := range fields.Len() {
				generated = append(generated, fmt.Sprintf("%s = %d %s", fields.Get(j).FullName(), fields.Get(j).Number(), fieldType(fields.Get(j))))
			}
		}
	}
	slices.Sort(generated)
	if d := cmp.Diff(want, generated); d != "" {
		t.Errorf("the generated code: %s", d)
	}
	if d := cmp.Diff(want, protoFiles(t)); d != "" {
		t.Errorf("the proto files: %s", d)
	}
}

func fieldType(f protoreflect.FieldDescriptor) string {
	name := f.Kind().String()
	switch {
	case f.IsMap():
		return fmt.Sprintf("map<%s, %s>", f.MapKey().Kind(), f.MapValue().Kind())
	case f.Message() != nil:
		name = string(f.Message().FullName())
	}
	if f.IsList() {
		name = "repeated " + name
	}
	return name
}

var (
	begins  = regexp.MustCompile(`^(package|message|service) (\w+)`)
	isCall  = regexp.MustCompile(`^  rpc (\w+)\(`)
	isField = regexp.MustCompile(`^  ((?:repeated )?[\w.]+|map<.*>) (\w+) = (\d+);`)
)

// protoFiles reads what the proto files say, as far as ours go: one declaration on a line.
func protoFiles(t *testing.T) []string {
	t.Helper()
	paths, err := filepath.Glob("proto/*.proto")
	if err != nil || len(paths) != 3 {
		t.Fatalf("proto files: %v, %v", paths, err)
	}
	var all []string
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		pkg, in := "", ""
		for line := range strings.Lines(string(text)) {
			if m := begins.FindStringSubmatch(line); m != nil && m[1] == "package" {
				pkg = m[2]
			} else if m != nil {
				in = pkg + "." + m[2]
			} else if m := isCall.FindStringSubmatch(line); m != nil {
				all = append(all, "/"+in+"/"+m[1])
			} else if m := isField.FindStringSubmatch(line); m != nil {
				kind := m[1]
				if bare := strings.TrimPrefix(kind, "repeated "); bare == "NetBoot" || bare == "Group" || bare == "Profile" {
					kind = strings.Replace(kind, bare, pkg+"."+bare, 1)
				}
				all = append(all, fmt.Sprintf("%s.%s = %s %s", in, m[2], m[3], kind))
			}
		}
	}
	slices.Sort(all)
	return all
}
