package server

import (
	"maps"
	"os"
	"path/filepath"
	"testing"
)

// protocolData is a data directory with an example of everything that matchbox's answers depend on. The table of
// protocol_test.go asks for it.
var protocolData = map[string]string{
	"groups/default.json": `{"id":"default","name":"Default","profile":"p1","metadata":
		{"pet":"dog","n":1000000,"f":1.5,"b":true,"nested":{"a":"x","deep":{"z":1}},"list":["a"],"nul":null,"html":"<a&b>"}}`,
	"groups/m1.json":      `{"id":"m1","profile":"p1","selector":{"mac":"52-54-00-A1-9C-AE"},"metadata":{"ssh":"key","request":"lost","mac":"lost"}}`,
	"groups/m2.json":      `{"id":"m2","profile":"p-grub","selector":{"mac":"52:54:00:b2:2f:86","Os":"installed"}}`,
	"groups/ib.json":      `{"id":"ib","profile":"p1","selector":{"mac":"00:00:00:00:fe:80:00:00:00:00:00:00:02:00:5e:10:00:00:00:01"},"metadata":{"ib":1}}`,
	"groups/eui64.json":   `{"id":"eui64","profile":"p1","selector":{"mac":"0200.5e10.0000.0001"},"metadata":{"eui":64}}`,
	"groups/upper.json":   `{"id":"upper","profile":"p1","selector":{"MAC":"52-54-00-C3-61-77"},"metadata":{"upper":1}}`,
	"groups/tie-a.json":   `{"id":"tie-a","profile":"p1","selector":{"a":"1"}}`,
	"groups/tie-b.json":   `{"id":"tie-b","profile":"p1","selector":{"b":"1"}}`,
	"groups/two.json":     `{"id":"two","profile":"p1","selector":{"a":"1","c":"1"}}`,
	"groups/value-1.json": `{"id":"value-1","profile":"p1","selector":{"v":"1","w":"9"}}`,
	"groups/value-2.json": `{"id":"value-2","profile":"p1","selector":{"x":"1","y":"1"}}`,
	"groups/missing.json": `{"id":"missing","profile":"nope","selector":{"case":"missing"}}`,
	"groups/noprof.json":  `{"id":"noprof","selector":{"case":"noprof"}}`,
	"groups/noid.json":    `{"profile":"p1","selector":{"case":"noid"}}`,
	"groups/otherid.json": `{"id":"something else","profile":"p1","selector":{"case":"otherid"}}`,
	"groups/null.json":    `{"id":"null","profile":"p1","selector":{"case":"null"},"metadata":null}`,
	"groups/.hidden.json": `{"id":"hidden","profile":"p1","selector":{"case":"hidden"}}`,
	"groups/extra.json":   `{"id":"extra","profile":"p1","selector":{"case":"extra"},"foo":{},"Metadata":{"UP":"x","up":"y","Request":{"query":"zz"}}}`,
	"groups/odd.json":     `{"id":"odd","profile":"p1","selector":{"Case":"odd","UPPER":"1"},"metadata":{"case":"m","x-y z":"a b","sp":{"a b":"c=d"},"e":"","é":"ü","big":12345678901234567890}}`,
	"groups/raw.json":     `{"id":"raw","profile":"raw","selector":{"case":"raw"}}`,
	"groups/2x.json":      `{"id":"2x","profile":"2x","selector":{"case":"2x"}}`,
	"groups/butane.json":  `{"id":"butane","profile":"butane","selector":{"case":"butane"},"metadata":{"name":"butane"}}`,
	"groups/tmpl.json":    `{"id":"tmpl","profile":"tmpl","selector":{"case":"tmpl"},"metadata":{"name":"tmpl"}}`,
	"groups/empty.json":   `{"id":"empty","profile":"empty","selector":{"case":"empty"}}`,
	"groups/nofile.json":  `{"id":"nofile","profile":"nofile","selector":{"case":"nofile"}}`,
	"groups/broken.json":  `{"id":"broken","profile":"broken","selector":{"case":"broken"}}`,
	"groups/nested.json":  `{"id":"nested","profile":"nested","selector":{"case":"nested"}}`,
	"groups/noproid.json": `{"id":"noproid","profile":"noid","selector":{"case":"noproid"}}`,
	"groups/inject.json":  `{"id":"inject","profile":"inject","selector":{"case":"inject"}}`,
	"groups/noboot.json":  `{"id":"noboot","profile":"noboot","selector":{"case":"noboot"}}`,
	"groups/yaml.json":    `{"id":"yaml","profile":"yaml","selector":{"case":"yaml"}}`,
	// None of these is a group.
	"groups/bad-mac.json":  `{"id":"bad-mac","profile":"raw","selector":{"mac":"zz"}}`,
	"groups/bad-json.json": `{bad`,
	"groups/trailing.json": `{"id":"trailing","profile":"raw","selector":{"case":"none"}} {}`,
	"groups/bom.json":      "\xef\xbb\xbf" + `{"id":"bom","profile":"raw","selector":{"case":"none"}}`,
	"groups/list.json":     `{"id":"list","profile":"raw","selector":{"case":"none"},"metadata":[1]}`,
	"groups/string.json":   `{"id":"string","profile":"raw","selector":{"case":"none"},"metadata":"s"}`,
	"groups/number.json":   `{"id":"number","profile":"raw","selector":{"case":5}}`,
	"groups/text.txt":      `{"id":"text","profile":"raw","selector":{"case":"none"}}`,
	"groups/dir.json/x":    ``,

	"profiles/p1.json": `{"id":"p1","name":"P1","boot":{"kernel":"/assets/k","initrd":["/assets/i","/assets/j"],
		"args":["a=b","coreos.config.url=http://x/ignition?uuid=${uuid}&mac=${mac:hexhyp}","console=ttyS0 x"]},
		"ignition_id":"p1.yaml","generic_id":"g.tmpl","cloud_id":"c.yaml"}`,
	"profiles/p-grub.json": `{"id":"p-grub","boot":{"kernel":"/k","initrd":["/i1","/i2"],"args":["x"]}}`,
	"profiles/raw.json":    `{"id":"raw","ignition_id":"raw.ign","generic_id":"raw.ign"}`,
	"profiles/2x.json":     `{"id":"2x","ignition_id":"2x.ignition","boot":{}}`,
	"profiles/butane.json": `{"id":"butane","ignition_id":"butane.yaml","boot":{"kernel":"k"}}`,
	"profiles/tmpl.json":   `{"id":"tmpl","ignition_id":"raw.tmpl","generic_id":"missing-key","cloud_id":"script.sh"}`,
	"profiles/empty.json":  `{"id":"empty"}`,
	"profiles/nofile.json": `{"id":"nofile","ignition_id":"nothere","generic_id":"nothere","cloud_id":"nothere"}`,
	"profiles/broken.json": `{"id":"broken","ignition_id":"broken.ign","generic_id":"unparsed"}`,
	"profiles/nested.json": `{"id":"some other id","ignition_id":"sub/n.ign","generic_id":"../ignition/2x.ignition"}`,
	"profiles/noid.json":   `{"ignition_id":"raw.ign","boot":{"kernel":"k"}}`,
	"profiles/inject.json": `{"id":"inject","boot":{"kernel":"k","args":["a\nshell"]}}`,
	"profiles/noboot.json": `{"id":"noboot","boot":null}`,
	"profiles/yaml.json":   `{"id":"yaml","ignition_id":"plain.yaml"}`,

	"ignition/raw.ign":     `{ "ignition": {"version": "3.1.0"},  "storage":{"files":[{"path":"/a","contents":{"source":"data:,%3Cb%3E"}}]}}` + "\n",
	"ignition/2x.ignition": `{ "ignition": {"version": "2.1.0"} }` + "\n",
	"ignition/broken.ign":  `{ "ignition" broken`,
	"ignition/sub/n.ign":   `{"ignition":{"version":"3.0.0"}}`,
	"ignition/raw.tmpl":    `{"ignition":{"version":"3.0.0"}, "passwd":{"users":[{"name":"{{.name}}"}]}}`,
	"ignition/plain.yaml":  "passwd:\n  users:\n  - name: core\n",
	"ignition/butane.yaml": "variant: fcos\nversion: 1.4.0\npasswd:\n  users:\n  - name: core\n" +
		"    ssh_authorized_keys: ['{{.name}} {{.request.query.case}} {{.request.raw_query}}']\n",
	"ignition/p1.yaml": "variant: flatcar\nversion: 1.0.0\nstorage:\n  files:\n  - path: /a\n    contents:\n      inline: |\n        <{{.pet}} & {{.n}}>\n",

	"generic/g.tmpl": `pet={{.pet}} n={{.n}} f={{.f}} b={{.b}} deep={{.nested.deep.z}} list={{index .list 0}} nul={{.nul}} ` +
		`mac={{.request.query.mac}} rq={{.request.raw_query}} html={{.html}}` + "\n",
	"generic/raw.ign":     `{ "a": 1 }`,
	"generic/missing-key": "x={{.nothere}}\n",
	"generic/unparsed":    "x={{if}}\n",
	"cloud/c.yaml":        "#cloud-config\nhostname: {{.pet}}\n",
	"cloud/script.sh":     "#!/bin/sh\necho {{.name}}\n",

	"assets/hello.txt":      "hello\n",
	"assets/sub/k.bin":      "k\n",
	"assets/coreos/1.2.3/x": "",
	"assets/idx/index.html": "<p>i\n",
	"assets/.hidden":        "",
}

// writeData makes a directory with these files; an empty map makes its directories.
func writeData(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range append(directories[:], "assets") {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name := range maps.Keys(files) {
		writeFile(t, dir, name, files[name])
	}
	return dir
}

func writeFile(t testing.TB, dir, name, content string) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// start serves a directory until the test ends.
func start(t testing.TB, o Options) *Server {
	t.Helper()
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}
