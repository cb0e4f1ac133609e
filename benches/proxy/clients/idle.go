package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
)

// So many connections are opened at once.
const opening = 32

// idle opens connections, makes a request over each, and prints "open". When standard input ends it prints how many are
// still open, and ends.
func idle(args []string) {
	flags := flag.NewFlagSet("idle", flag.ExitOnError)
	url := flags.String("url", "https://127.0.0.1:8443/", "what is asked for")
	version := flags.Int("http", 1, "1 or 2; 2 is agreed on by ALPN")
	connections := flags.Int("connections", 5000, "how many")
	_ = flags.Parse(args)

	var open atomic.Int64
	var all sync.WaitGroup
	turns := make(chan struct{}, opening)
	for range *connections {
		turns <- struct{}{}
		all.Add(1)
		go func() {
			defer all.Done()
			if err := visit(*url, *version, &open); err != nil {
				log.Fatal(err)
			}
			<-turns
		}()
	}
	all.Wait()
	fmt.Println("open")
	_, _ = io.Copy(io.Discard, os.Stdin)
	fmt.Println(open.Load())
}

// visit makes one request over a connection of its own, which it leaves open.
func visit(url string, version int, open *atomic.Int64) error {
	var protocols http.Protocols
	protocols.SetHTTP1(version == 1)
	protocols.SetHTTP2(version == 2)
	dialer := net.Dialer{Timeout: patience}
	transport := &http.Transport{
		TLSClientConfig: policy(),
		Protocols:       &protocols,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			open.Add(1)
			return &counted{Conn: conn, open: open}, nil
		},
	}
	client := http.Client{Transport: transport, Timeout: patience}
	answer, err := client.Get(url)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK || answer.ProtoMajor != version {
		return fmt.Errorf("it answered %s by %s", answer.Status, answer.Proto)
	}
	return nil
}

// counted is counted as long as it is open.
type counted struct {
	net.Conn
	open  *atomic.Int64
	close sync.Once
}

func (c *counted) Close() error {
	c.close.Do(func() { c.open.Add(-1) })
	return c.Conn.Close()
}
