// A service of rpcx, and clients of one, for the tests of the gateway, for examples/rpcx and for the proxy benchmark.
// The service registers itself in etcd as rpcx-etcd writes it, or by multicast DNS; the clients know one address and
// nothing else (Peer2Peer), or find the service by multicast DNS.
package main

import (
	"fmt"
	"io"
	"os"
)

func usage() {
	fmt.Fprintln(os.Stderr, "Usage: rpcx server|client|load [FLAG...]; -help lists the flags")
	os.Exit(2)
}

func main() {
	if len(os.Args) < 2 {
		usage()
	}
	switch os.Args[1] {
	case "server":
		serve(os.Args[2:])
	case "client":
		call(os.Args[2:])
	case "load":
		load(os.Args[2:])
	default:
		usage()
	}
}

// stdinEnded is closed when standard input ends: as soon as whoever holds its other end is gone. Never, without tied.
func stdinEnded(tied bool) <-chan struct{} {
	ended := make(chan struct{})
	if tied {
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			close(ended)
		}()
	}
	return ended
}
