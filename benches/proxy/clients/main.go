// Clients for what wrk and h2load cannot do: a TLS handshake for each request, of a kind that is checked, and
// connections that are open and silent.
package main

import (
	"crypto/tls"
	"fmt"
	"os"
)

const usage = "Usage: clients handshakes|idle [FLAG...]; -help lists the flags"

func main() {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "handshakes":
			handshakes(os.Args[2:])
			return
		case "idle":
			idle(os.Args[2:])
			return
		}
	}
	fmt.Fprintln(os.Stderr, usage)
	os.Exit(2)
}

// policy has one key exchange, which every proxy knows: some know others, which cost more, and would choose them.
func policy() *tls.Config {
	return &tls.Config{
		ServerName:         "localhost",
		InsecureSkipVerify: true,
		MinVersion:         tls.VersionTLS13,
		CurvePreferences:   []tls.CurveID{tls.X25519},
	}
}
