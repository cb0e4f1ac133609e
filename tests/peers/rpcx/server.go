package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/grandcat/zeroconf"
	"github.com/smallnest/rpcx/protocol"
	"github.com/smallnest/rpcx/server"
	etcd "go.etcd.io/etcd/client/v3"
)

// Seconds after which an instance that was killed leaves etcd.
const lease = 10

// serve registers a service in etcd and serves it until SIGTERM or the end of standard input.
func serve(args []string) {
	flags := flag.NewFlagSet("server", flag.ExitOnError)
	name := flags.String("name", "server", "the name that answers have")
	listen := flags.String("listen", "127.0.0.1:8972", "HOST:PORT, where it listens and what it registers")
	services := flags.String("service", "Test", "the service path, or several with commas between them")
	endpoints := flags.String("etcd", "", "the address of etcd; empty: it registers nowhere")
	mdns := flags.Bool("mdns", false, "announce it by multicast DNS")
	base := flags.String("base", "/rpcx", "the path below which services are in etcd")
	meta := flags.String("meta", "", "metadata of the instance, as weight=3&group=a")
	token := flags.String("token", "", "the only token that calls may have; empty: none is asked for")
	delay := flags.Duration("delay", 0, "how long each answer takes")
	tied := flags.Bool("with-stdin", false, "end when standard input does")
	_ = flags.Parse(args)

	paths := strings.Split(*services, ",")
	rpcx := server.NewServer()
	test := &Test{name: *name, delay: *delay}
	for _, path := range paths {
		if err := rpcx.RegisterName(path, test, *meta); err != nil {
			log.Fatal(err)
		}
	}
	if *token != "" {
		rpcx.AuthFunc = func(_ context.Context, _ *protocol.Message, got string) error {
			if got != *token {
				return errors.New("wrong token")
			}
			return nil
		}
	}
	leave := func() {}
	if *endpoints != "" {
		leave = register(*endpoints, *base, *listen, *meta, paths)
	}
	if *mdns {
		leave = announce(*listen, *meta, paths)
	}

	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM)
	ended := stdinEnded(*tied)
	go func() {
		select {
		case <-ended:
			os.Exit(0)
		case <-told:
		}
		// As rpcx does it: it leaves etcd, ends what it is doing, and then its connections.
		leave()
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		_ = rpcx.Shutdown(ctx)
		os.Exit(0)
	}()
	if err := rpcx.Serve("tcp", *listen); err != nil {
		log.Print(err)
	}
	// What ends it exits.
	select {}
}

// register writes one key per service, as the plugin rpcx-etcd does, under a lease, and says how to leave.
func register(endpoint, base, listen, meta string, paths []string) func() {
	client, err := etcd.New(etcd.Config{Endpoints: []string{endpoint}, DialTimeout: 10 * time.Second})
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	granted, err := client.Grant(ctx, lease)
	if err != nil {
		log.Fatal(err)
	}
	for _, path := range paths {
		key := fmt.Sprintf("%s/%s/tcp@%s", base, path, listen)
		if _, err := client.Put(ctx, key, meta, etcd.WithLease(granted.ID)); err != nil {
			log.Fatal(err)
		}
	}
	kept, err := client.KeepAlive(ctx, granted.ID)
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		for range kept {
		}
	}()
	return func() { _, _ = client.Revoke(ctx, granted.ID) }
}

// announce says what the plugin of rpcx for multicast DNS does, by the same library, and says how to leave.
func announce(listen, meta string, paths []string) func() {
	type offered struct {
		Service        string `json:"service,omitempty"`
		Meta           string `json:"meta,omitempty"`
		ServiceAddress string `json:"service_address,omitempty"`
	}
	var all []offered
	for _, path := range paths {
		all = append(all, offered{path, meta, "tcp@" + listen})
	}
	text, err := json.Marshal(all)
	if err != nil {
		log.Fatal(err)
	}
	_, port, err := net.SplitHostPort(listen)
	if err != nil {
		log.Fatal(err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		log.Fatal(err)
	}
	host, err := os.Hostname()
	if err != nil {
		log.Fatal(err)
	}
	said, err := zeroconf.Register(host, "_rpcxservices", "local.", number, []string{url.QueryEscape(string(text))}, nil)
	if err != nil {
		log.Fatal(err)
	}
	return said.Shutdown
}
