package main

import (
	"flag"
	"fmt"
	"log"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	rpcx "github.com/smallnest/rpcx/client"
)

// load makes calls over several connections for a while, and prints how many there were, how many failed, calls per
// second, and the 99th percentile of their time in ms: what the proxy benchmark wants to know.
func load(args []string) {
	flags := flag.NewFlagSet("load", flag.ExitOnError)
	gateway := flags.String("gateway", "127.0.0.1:8973", "HOST:PORT of the gateway")
	service := flags.String("service", "Test", "the service path")
	size := flags.Int("size", 12, "bytes that are sent and come back")
	connections := flags.Int("connections", 8, "how many")
	callers := flags.Int("callers", 8, "so many at once over each, each one call after the other")
	duration := flags.Duration("for", time.Second, "how long")
	_ = flags.Parse(args)

	// As much as a load generator with one thread.
	runtime.GOMAXPROCS(1)
	discovery, err := rpcx.NewPeer2PeerDiscovery("tcp@"+*gateway, "")
	if err != nil {
		log.Fatal(err)
	}
	option := rpcx.DefaultOption
	option.Retries = 0
	text := strings.Repeat("x", *size)
	var (
		lock   sync.Mutex
		times  []time.Duration
		failed int
		all    sync.WaitGroup
	)
	begun := time.Now()
	for range *connections {
		client := rpcx.NewXClient(*service, rpcx.Failfast, rpcx.RandomSelect, discovery, option)
		defer client.Close()
		for caller := range *callers {
			all.Add(1)
			go func() {
				defer all.Done()
				var own []time.Duration
				for time.Since(begun) < *duration {
					start := time.Now()
					number := int64(len(own)*(*callers) + caller)
					if _, err := one(client, "Echo", text, number, 10*time.Second); err != nil {
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
	}
	all.Wait()
	rate := float64(len(times)) / time.Since(begun).Seconds()
	slices.Sort(times)
	fmt.Println(len(times), failed, rate, float64(times[len(times)*99/100].Microseconds())/1000)
}
