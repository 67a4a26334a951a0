package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/tectonic-worker/tectonic-worker/installer/matchbox/rpcpb"
	"github.com/tectonic-worker/tectonic-worker/installer/matchbox/serverpb"
	"github.com/tectonic-worker/tectonic-worker/installer/matchbox/storagepb"
)

// authority issues certificates for a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{cert, key}
}

func (a authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// issue makes a certificate for a server (with an address) or a client, good until the given time.
func (a authority) issue(t *testing.T, name string, until time.Time, addresses ...net.IP) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	usage := x509.ExtKeyUsageClientAuth
	if len(addresses) > 0 {
		usage = x509.ExtKeyUsageServerAuth
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{usage}, IPAddresses: addresses,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// serveRPC serves s over mutual TLS and gives its address.
func serveRPC(t *testing.T, s *Server, ca authority) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{
		MinVersion: tls.VersionTLS12, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ca.pool(),
		Certificates: []tls.Certificate{ca.issue(t, "server", time.Now().Add(time.Hour), net.IPv4(127, 0, 0, 1))},
	}
	g := grpc.NewServer(append(s.ServerOptions(), grpc.Creds(credentials.NewTLS(config)))...)
	s.RegisterGRPC(g)
	go func() { _ = g.Serve(l) }()
	t.Cleanup(g.Stop)
	return l.Addr().String()
}

func dial(t *testing.T, address string, config *tls.Config) *grpc.ClientConn {
	t.Helper()
	c, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(config)), grpc.WithDisableRetry())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// operator connects as one who may write.
func operator(t *testing.T, s *Server) *grpc.ClientConn {
	t.Helper()
	ca := newAuthority(t, "ca")
	address := serveRPC(t, s, ca)
	return dial(t, address, &tls.Config{RootCAs: ca.pool(), Certificates: []tls.Certificate{ca.issue(t, "operator", time.Now().Add(time.Hour))}})
}

func TestRPCNeedsAClientCertificate(t *testing.T) {
	s := start(t, Options{DataPath: writeData(t, protocolData)})
	ca, other := newAuthority(t, "ca"), newAuthority(t, "another ca")
	address := serveRPC(t, s, ca)
	good := ca.issue(t, "operator", time.Now().Add(time.Hour))
	_, port, _ := net.SplitHostPort(address)
	for _, c := range []struct {
		name    string
		address string
		config  *tls.Config
		want    string // in the error; empty: it works
	}{
		{"a client of the CA", address, &tls.Config{RootCAs: ca.pool(), Certificates: []tls.Certificate{good}}, ""},
		{"TLS 1.2", address, &tls.Config{RootCAs: ca.pool(), Certificates: []tls.Certificate{good}, MaxVersion: tls.VersionTLS12}, ""},
		{"no certificate", address, &tls.Config{RootCAs: ca.pool()}, "certificate required"},
		{"of another CA", address, &tls.Config{RootCAs: ca.pool(), Certificates: []tls.Certificate{other.issue(t, "operator", time.Now().Add(time.Hour))}}, "certificate"},
		{"expired", address, &tls.Config{RootCAs: ca.pool(), Certificates: []tls.Certificate{ca.issue(t, "operator", time.Now().Add(-time.Hour))}}, "expired certificate"},
		{"a server's certificate", address, &tls.Config{RootCAs: ca.pool(), Certificates: []tls.Certificate{ca.issue(t, "x", time.Now().Add(time.Hour), net.IPv4(127, 0, 0, 1))}}, "bad certificate"},
		{"TLS 1.1", address, &tls.Config{RootCAs: ca.pool(), Certificates: []tls.Certificate{good}, MinVersion: tls.VersionTLS11, MaxVersion: tls.VersionTLS11}, "protocol version"},
		{"the server has another name", "localhost:" + port, &tls.Config{RootCAs: ca.pool(), Certificates: []tls.Certificate{good}}, "localhost"},
		{"the client trusts another CA", address, &tls.Config{RootCAs: other.pool(), Certificates: []tls.Certificate{good}}, "unknown authority"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			// A client without a certificate that is asked for one sends what it has: Go leaves out what does not fit.
			if len(c.config.Certificates) > 0 {
				pair := c.config.Certificates[0]
				c.config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
			}
			_, err := rpcpb.NewGroupsClient(dial(t, c.address, c.config)).GroupPut(ctx, &serverpb.GroupPutRequest{Group: &storagepb.Group{Id: c.name, Profile: "p1"}})
			switch {
			case c.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case c.want != "" && status.Code(err) != codes.Unavailable:
				t.Errorf("got %v, want Unavailable", err)
			case c.want != "" && !strings.Contains(err.Error(), c.want) && !strings.Contains(err.Error(), "broken pipe") && !strings.Contains(err.Error(), "reset by peer"):
				// In TLS 1.3 a client may write before it hears that it is refused; the pipe may break first.
				t.Errorf("the error is %v, which does not say %q", err, c.want)
			}
			if put := s.store.index.group(c.name) != nil; put != (c.want == "") {
				t.Errorf("the group was put: %t", put)
			}
		})
	}
}

func TestRPC(t *testing.T) {
	dir := writeData(t, nil)
	var log strings.Builder
	s := start(t, Options{DataPath: dir, Log: slog.New(slog.NewTextHandler(&log, nil))})
	c := operator(t, s)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	put := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	config := []byte(`{"ignition":{"version":"3.3.0"}}`)
	put(rpcpb.NewIgnitionClient(c).IgnitionPut(ctx, &serverpb.IgnitionPutRequest{Name: "i.ign", Config: config}))
	put(rpcpb.NewGenericClient(c).GenericPut(ctx, &serverpb.GenericPutRequest{Name: "g", Config: []byte("x={{.a}}")}))
	p := &storagepb.Profile{Id: "p", Name: "P", IgnitionId: "i.ign", GenericId: "g", Boot: &storagepb.NetBoot{Kernel: "/k", Initrd: []string{"/i"}, Args: []string{"a"}}}
	put(rpcpb.NewProfilesClient(c).ProfilePut(ctx, &serverpb.ProfilePutRequest{Profile: p}))
	put(rpcpb.NewProfilesClient(c).ProfilePut(ctx, &serverpb.ProfilePutRequest{Profile: &storagepb.Profile{Id: "bare"}}))
	put(rpcpb.NewGroupsClient(c).GroupPut(ctx, &serverpb.GroupPutRequest{Group: &storagepb.Group{
		Id: "g", Name: "G", Profile: "p", Selector: map[string]string{"mac": "52-54-00-A1-9C-AE"}, Metadata: []byte(`{"a": "b"}`)}}))
	put(rpcpb.NewGroupsClient(c).GroupPut(ctx, &serverpb.GroupPutRequest{Group: &storagepb.Group{Id: "default", Profile: "bare"}}))

	// What was put is served at once, and can be read back.
	group := &storagepb.Group{Id: "g", Name: "G", Profile: "p", Selector: map[string]string{"mac": "52:54:00:a1:9c:ae"}, Metadata: []byte("{\n\t\t\"a\": \"b\"\n\t}")}
	bare := &storagepb.Profile{Id: "bare", Boot: &storagepb.NetBoot{}}
	selected, err := rpcpb.NewSelectClient(c).SelectGroup(ctx, &serverpb.SelectGroupRequest{Labels: map[string]string{"mac": "5254.00a1.9cae", "uuid": "x"}})
	equal(t, err, &serverpb.SelectGroupResponse{Group: group}, selected)
	profile, err := rpcpb.NewSelectClient(c).SelectProfile(ctx, &serverpb.SelectProfileRequest{Labels: map[string]string{"mac": "52:54:00:a1:9c:ae"}})
	equal(t, err, &serverpb.SelectProfileResponse{Profile: p}, profile)
	groups, err := rpcpb.NewGroupsClient(c).GroupList(ctx, &serverpb.GroupListRequest{})
	equal(t, err, &serverpb.GroupListResponse{Groups: []*storagepb.Group{{Id: "default", Profile: "bare", Metadata: []byte("null")}, group}}, groups)
	profiles, err := rpcpb.NewProfilesClient(c).ProfileList(ctx, &serverpb.ProfileListRequest{})
	equal(t, err, &serverpb.ProfileListResponse{Profiles: []*storagepb.Profile{bare, p}}, profiles)
	got, err := rpcpb.NewIgnitionClient(c).IgnitionGet(ctx, &serverpb.IgnitionGetRequest{Name: "i.ign"})
	equal(t, err, &serverpb.IgnitionGetResponse{Config: config}, got)

	// Another server has the same from the files, and nothing is left of writing them.
	again := start(t, Options{DataPath: dir})
	reread, _ := again.store.index.choose(map[string]string{"mac": "52:54:00:a1:9c:ae"})
	if diff := cmp.Diff(group, groupProto(reread.wire()), protocmp.Transform()); diff != "" {
		t.Errorf("the file holds something else (-want +got):\n%s", diff)
	}
	left, _ := filepath.Glob(filepath.Join(dir, "*", temporary+"*"))
	if info, err := os.Stat(filepath.Join(dir, "groups", "g.json")); err != nil || info.Mode() != 0o644 || len(left) > 0 {
		t.Errorf("the file is %v (%v), left are %v; want mode 0644 and nothing left", info.Mode(), err, left)
	}

	// Deleting what is gone succeeds; reading it does not.
	for range 2 {
		put(rpcpb.NewGroupsClient(c).GroupDelete(ctx, &serverpb.GroupDeleteRequest{Id: "g"}))
		put(rpcpb.NewProfilesClient(c).ProfileDelete(ctx, &serverpb.ProfileDeleteRequest{Id: "p"}))
		put(rpcpb.NewIgnitionClient(c).IgnitionDelete(ctx, &serverpb.IgnitionDeleteRequest{Name: "i.ign"}))
		put(rpcpb.NewGenericClient(c).GenericDelete(ctx, &serverpb.GenericDeleteRequest{Name: "g"}))
	}
	for name, err := range map[string]error{
		"GroupGet":    second(rpcpb.NewGroupsClient(c).GroupGet(ctx, &serverpb.GroupGetRequest{Id: "g"})),
		"ProfileGet":  second(rpcpb.NewProfilesClient(c).ProfileGet(ctx, &serverpb.ProfileGetRequest{Id: "p"})),
		"IgnitionGet": second(rpcpb.NewIgnitionClient(c).IgnitionGet(ctx, &serverpb.IgnitionGetRequest{Name: "i.ign"})),
		"GenericGet":  second(rpcpb.NewGenericClient(c).GenericGet(ctx, &serverpb.GenericGetRequest{Name: "g"})),
	} {
		if status.Code(err) != codes.NotFound {
			t.Errorf("%s of what was deleted: %v, want NotFound", name, err)
		}
	}
	put(rpcpb.NewProfilesClient(c).ProfileDelete(ctx, &serverpb.ProfileDeleteRequest{Id: "bare"}))
	if err := second(rpcpb.NewSelectClient(c).SelectProfile(ctx, &serverpb.SelectProfileRequest{})); status.Code(err) != codes.NotFound {
		t.Errorf("a group whose profile is gone selects: %v, want NotFound", err)
	}
	if !strings.Contains(log.String(), "client=operator") || !strings.Contains(log.String(), "method=GroupPut code=OK") {
		t.Errorf("the log does not say who put a group:\n%s", log.String())
	}
}

func second[T any](_ T, err error) error { return err }

func equal(t *testing.T, err error, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got, protocmp.Transform()); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

// TestRPCRefuses puts what must not become a file.
func TestRPCRefuses(t *testing.T) {
	dir := writeData(t, map[string]string{"profiles/kept.json": `{"id":"kept"}`})
	s := start(t, Options{DataPath: dir})
	c := operator(t, s)
	groups, profiles := rpcpb.NewGroupsClient(c), rpcpb.NewProfilesClient(c)
	ignition, generic := rpcpb.NewIgnitionClient(c), rpcpb.NewGenericClient(c)
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	good := []byte(`{"ignition":{"version":"3.3.0"}}`)
	refused := map[string]error{
		"no group":             second(groups.GroupPut(ctx, &serverpb.GroupPutRequest{})),
		"no profile":           second(profiles.ProfilePut(ctx, &serverpb.ProfilePutRequest{})),
		"a group without one":  second(groups.GroupPut(ctx, &serverpb.GroupPutRequest{Group: &storagepb.Group{Id: "g"}})),
		"a bad MAC":            second(groups.GroupPut(ctx, &serverpb.GroupPutRequest{Group: &storagepb.Group{Id: "g", Profile: "p", Selector: map[string]string{"Mac": "zz"}}})),
		"an empty selector":    second(groups.GroupPut(ctx, &serverpb.GroupPutRequest{Group: &storagepb.Group{Id: "g", Profile: "p", Selector: map[string]string{"": "x"}}})),
		"a line in a value":    second(groups.GroupPut(ctx, &serverpb.GroupPutRequest{Group: &storagepb.Group{Id: "g", Profile: "p", Selector: map[string]string{"a": "x\ny"}}})),
		"metadata, a list":     second(groups.GroupPut(ctx, &serverpb.GroupPutRequest{Group: &storagepb.Group{Id: "g", Profile: "p", Metadata: []byte(`[]`)}})),
		"metadata, broken":     second(groups.GroupPut(ctx, &serverpb.GroupPutRequest{Group: &storagepb.Group{Id: "g", Profile: "p", Metadata: []byte(`{"a":`)}})),
		"a profile elsewhere":  second(groups.GroupPut(ctx, &serverpb.GroupPutRequest{Group: &storagepb.Group{Id: "g", Profile: "../groups/x"}})),
		"a line in an arg":     second(profiles.ProfilePut(ctx, &serverpb.ProfilePutRequest{Profile: &storagepb.Profile{Id: "p", Boot: &storagepb.NetBoot{Kernel: "k", Args: []string{"a\nshell"}}}})),
		"a line in an initrd":  second(profiles.ProfilePut(ctx, &serverpb.ProfilePutRequest{Profile: &storagepb.Profile{Id: "p", Boot: &storagepb.NetBoot{Initrd: []string{"a\rshell"}}}})),
		"a config elsewhere":   second(profiles.ProfilePut(ctx, &serverpb.ProfilePutRequest{Profile: &storagepb.Profile{Id: "p", IgnitionId: "../../etc/shadow"}})),
		"Ignition, broken":     second(ignition.IgnitionPut(ctx, &serverpb.IgnitionPutRequest{Name: "a.ign", Config: []byte(`{"ignition"`)})),
		"Ignition, no version": second(ignition.IgnitionPut(ctx, &serverpb.IgnitionPutRequest{Name: "a.ign", Config: []byte(`{}`)})),
		"Ignition, bad file": second(ignition.IgnitionPut(ctx, &serverpb.IgnitionPutRequest{Name: "a.ignition",
			Config: []byte(`{"ignition":{"version":"3.0.0"},"storage":{"files":[{"path":"relative"}]}}`)})),
		"no Butane":          second(ignition.IgnitionPut(ctx, &serverpb.IgnitionPutRequest{Name: "a.yaml", Config: []byte("passwd: {}\n")})),
		"a template, broken": second(generic.GenericPut(ctx, &serverpb.GenericPutRequest{Name: "a", Config: []byte("{{if}}")})),
	}
	for _, id := range []string{"", ".", "..", "../profiles/kept", "a/b", `a\b`, "/etc/passwd", "a\x00b", "a\nb", ".hidden", strings.Repeat("x", 201)} {
		refused[fmt.Sprintf("GroupPut %q", id)] = second(groups.GroupPut(ctx, &serverpb.GroupPutRequest{Group: &storagepb.Group{Id: id, Profile: "p"}}))
		refused[fmt.Sprintf("GroupGet %q", id)] = second(groups.GroupGet(ctx, &serverpb.GroupGetRequest{Id: id}))
		refused[fmt.Sprintf("GroupDelete %q", id)] = second(groups.GroupDelete(ctx, &serverpb.GroupDeleteRequest{Id: id}))
		refused[fmt.Sprintf("ProfilePut %q", id)] = second(profiles.ProfilePut(ctx, &serverpb.ProfilePutRequest{Profile: &storagepb.Profile{Id: id}}))
		refused[fmt.Sprintf("ProfileDelete %q", id)] = second(profiles.ProfileDelete(ctx, &serverpb.ProfileDeleteRequest{Id: id}))
		refused[fmt.Sprintf("IgnitionPut %q", id)] = second(ignition.IgnitionPut(ctx, &serverpb.IgnitionPutRequest{Name: id, Config: good}))
		refused[fmt.Sprintf("IgnitionGet %q", id)] = second(ignition.IgnitionGet(ctx, &serverpb.IgnitionGetRequest{Name: id}))
		refused[fmt.Sprintf("IgnitionDelete %q", id)] = second(ignition.IgnitionDelete(ctx, &serverpb.IgnitionDeleteRequest{Name: id}))
		refused[fmt.Sprintf("GenericPut %q", id)] = second(generic.GenericPut(ctx, &serverpb.GenericPutRequest{Name: id, Config: good}))
		refused[fmt.Sprintf("GenericDelete %q", id)] = second(generic.GenericDelete(ctx, &serverpb.GenericDeleteRequest{Name: id}))
	}
	for what, err := range refused {
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v, want InvalidArgument", what, err)
		}
	}
	// gRPC itself refuses what is not UTF-8 before it leaves, and what is too big when it comes.
	big := second(generic.GenericPut(ctx, &serverpb.GenericPutRequest{Name: "big", Config: make([]byte, 10<<20)}))
	if status.Code(big) != codes.ResourceExhausted {
		t.Errorf("10 MiB: %v, want ResourceExhausted", big)
	}
	var files []string
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files = append(files, strings.TrimPrefix(path, dir+"/"))
		}
		return err
	})
	if diff := cmp.Diff([]string{"profiles/kept.json"}, files); err != nil || diff != "" {
		t.Errorf("the data directory changed: %v (-want +got):\n%s", err, diff)
	}
}
