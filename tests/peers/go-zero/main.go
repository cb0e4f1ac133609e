// A service of go-zero, and a client of one, for the tests of the gateway and for examples/go-zero. What they serve and
// call is gRPC's own test service, grpc.testing.TestService: unary calls and all three kinds of streams.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
)

func usage() {
	fmt.Fprintln(os.Stderr, "Usage: go-zero server|client [-with-stdin] -f FILE.yaml")
	os.Exit(2)
}

func main() {
	if len(os.Args) < 2 {
		usage()
	}
	flags := flag.NewFlagSet(os.Args[1], flag.ExitOnError)
	file := flags.String("f", "", "the configuration, as go-zero has it, and what config.go adds")
	tied := flags.Bool("with-stdin", false, "end when standard input does: as soon as whoever holds its other end is gone")
	_ = flags.Parse(os.Args[2:])

	// A server ends at once, a client when it has said what became of its calls.
	ended := make(chan struct{})
	if *tied {
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			close(ended)
		}()
	}
	switch os.Args[1] {
	case "server":
		go func() {
			<-ended
			os.Exit(0)
		}()
		serve(*file)
	case "client":
		call(*file, ended)
	default:
		usage()
	}
}
