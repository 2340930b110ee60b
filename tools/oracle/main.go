// Command oracle is etcd 3.7.1 in one file: the server, etcdctl and etcdutl that ringd is compared with.
//
// Which of the three runs is said by the name it is called under (a link called etcdctl, say) or by its
// first argument: `oracle etcd --data-dir d`, `oracle etcdctl get k`, `oracle etcdutl version`.
// Nothing of etcd is changed: its own code runs, so the answers are etcd's answers.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"go.etcd.io/etcd/etcdctl/v3/ctlv3"
	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() {
	name := filepath.Base(os.Args[0])
	if name == "oracle" && len(os.Args) > 1 {
		name = os.Args[1]
		os.Args = os.Args[1:]
	}
	switch name {
	case "etcd":
		etcdmain.Main(os.Args)
	case "etcdctl":
		ctlv3.MustStart()
	case "etcdutl":
		etcdutlMain()
	default:
		fmt.Fprintf(os.Stderr, "oracle: call as etcd, etcdctl or etcdutl, or give one of these first (got %q)\n", name)
		os.Exit(2)
	}
}
