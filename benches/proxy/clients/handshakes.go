package main

import (
	"bytes"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"runtime"
	"slices"
	"sync"
	"time"
)

// How long a request may take, with its connection.
const patience = 10 * time.Second

var request = []byte("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")

// handshakes makes requests with a connection for each, and prints how many there were, how many failed, requests per
// second, and the 99th percentile of their time in ms. A handshake of another kind than was asked for
// has failed.
func handshakes(args []string) {
	flags := flag.NewFlagSet("handshakes", flag.ExitOnError)
	address := flags.String("address", "127.0.0.1:8443", "HOST:PORT of the server")
	resume := flags.Bool("resume", false, "go on with the session of an earlier connection")
	connections := flags.Int("connections", 64, "so many at once")
	duration := flags.Duration("for", time.Second, "how long")
	_ = flags.Parse(args)

	// As much as a load generator with one thread.
	runtime.GOMAXPROCS(1)
	config := policy()
	if *resume {
		config.ClientSessionCache = tls.NewLRUClientSessionCache(1)
		// The first one gets the ticket that all others show, or a newer one.
		if err := one(*address, config, false); err != nil {
			log.Fatal(err)
		}
	}

	var (
		lock   sync.Mutex
		times  []time.Duration
		failed int
		all    sync.WaitGroup
	)
	begun := time.Now()
	for range *connections {
		all.Add(1)
		go func() {
			defer all.Done()
			var own []time.Duration
			for time.Since(begun) < *duration {
				start := time.Now()
				if err := one(*address, config, *resume); err != nil {
					lock.Lock()
					if failed++; failed == 1 {
						log.Print(err)
					}
					lock.Unlock()
				}
				own = append(own, time.Since(start))
			}
			lock.Lock()
			defer lock.Unlock()
			times = append(times, own...)
		}()
	}
	all.Wait()
	rate := float64(len(times)) / time.Since(begun).Seconds()
	slices.Sort(times)
	fmt.Println(len(times), failed, rate, float64(times[len(times)*99/100].Microseconds())/1000)
}

// one makes one request.
func one(address string, config *tls.Config, resume bool) error {
	plain, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return err
	}
	// The server has ended TLS when its answer is over, and expects nothing more.
	defer plain.Close()
	if err := plain.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	conn := tls.Client(plain, config)
	if err := conn.Handshake(); err != nil {
		return err
	}
	if resumed := conn.ConnectionState().DidResume; resumed != resume {
		return fmt.Errorf("resumed: %v, and asked for: %v", resumed, resume)
	}
	if _, err := conn.Write(request); err != nil {
		return err
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(answer, []byte("HTTP/1.1 200 ")) || !bytes.HasSuffix(answer, []byte("hello world\n")) {
		return fmt.Errorf("it answered %q", answer)
	}
	return nil
}
