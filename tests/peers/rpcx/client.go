package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	rpcx "github.com/smallnest/rpcx/client"
	rpcxlog "github.com/smallnest/rpcx/log"
	"github.com/smallnest/rpcx/protocol"
	"github.com/smallnest/rpcx/share"
)

var serializers = map[string]protocol.SerializeType{"json": protocol.JSON, "msgpack": protocol.MsgPack}

// call makes the calls, and says on standard output every now and then and at the end what became of them.
func call(args []string) {
	flags := flag.NewFlagSet("client", flag.ExitOnError)
	gateway := flags.String("gateway", "127.0.0.1:8973", "HOST:PORT of the gateway, the only one that it knows")
	mdns := flags.Bool("mdns", false, "find the service by multicast DNS, and know no gateway")
	service := flags.String("service", "Test", "the service path")
	method := flags.String("method", "Echo", "the method; Note is called without waiting for an answer")
	serialize := flags.String("serialize", "msgpack", "json or msgpack")
	gzip := flags.Bool("gzip", false, "compress")
	size := flags.Int("size", 100, "bytes that are sent and come back")
	callers := flags.Int("callers", 1, "so many at once over one connection, each one call after the other")
	calls := flags.Int64("calls", 1, "so many calls altogether; 0: until standard input ends")
	heartbeat := flags.Duration("heartbeat", 0, "between two heartbeats; 0: none")
	pause := flags.Duration("pause", 0, "between two calls of a caller")
	timeout := flags.Duration("timeout", time.Minute, "how long a call may take")
	token := flags.String("token", "", "who calls; empty: it does not say")
	tied := flags.Bool("with-stdin", false, "end when standard input does")
	_ = flags.Parse(args)

	// What it says is on standard output.
	rpcxlog.SetDummyLogger()
	option := rpcx.DefaultOption
	// What fails is to be seen, and not to be tried again by the client.
	option.Retries = 0
	option.SerializeType = serializers[*serialize]
	if *gzip {
		option.CompressType = protocol.Gzip
	}
	if *heartbeat > 0 {
		// It closes the connection when one is not answered, and its calls fail.
		option.Heartbeat, option.HeartbeatInterval, option.MaxWaitForHeartbeat = true, *heartbeat, 10*time.Second
	}
	var discovery rpcx.ServiceDiscovery
	var err error
	if *mdns {
		discovery, err = rpcx.NewMDNSDiscovery(*service, 3*time.Second, time.Minute, "")
	} else {
		discovery, err = rpcx.NewPeer2PeerDiscovery("tcp@"+*gateway, "")
	}
	if err != nil {
		log.Fatal(err)
	}
	client := rpcx.NewXClient(*service, rpcx.Failfast, rpcx.RandomSelect, discovery, option)
	defer client.Close()
	if *token != "" {
		client.Auth(*token)
	}

	ended := stdinEnded(*tied)
	report := newReport()
	stop := report.printEvery(50 * time.Millisecond)
	var begun atomic.Int64
	var running sync.WaitGroup
	for range *callers {
		running.Add(1)
		go func() {
			defer running.Done()
			for {
				select {
				case <-ended:
					return
				case <-time.After(*pause):
				}
				number := begun.Add(1)
				if *calls > 0 && number > *calls {
					return
				}
				report.add(one(client, *method, strings.Repeat("x", *size), number, *timeout))
			}
		}()
	}
	running.Wait()
	stop()
	report.print(true)
	if *tied {
		// What was sent without waiting for an answer goes out before the connection ends.
		<-ended
	}
	os.Exit(0)
}

// one makes one call.
func one(client rpcx.XClient, method, text string, number int64, timeout time.Duration) (Reply, error) {
	asked := fmt.Sprint(number)
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	answered := map[string]string{}
	ctx = context.WithValue(ctx, share.ReqMetaDataKey, map[string]string{"asked": asked})
	ctx = context.WithValue(ctx, share.ResMetaDataKey, answered)
	args := &Args{Text: text}
	if method == "Note" {
		return Reply{}, client.Oneshot(ctx, method, args)
	}
	var reply Reply
	if err := client.Call(ctx, method, args, &reply); err != nil {
		return Reply{}, err
	}
	if reply.Text != text || reply.Asked != asked || answered["answered"] != reply.Server {
		return Reply{}, fmt.Errorf("call %d was answered with %d bytes, for call %q, by %q: it is another's answer",
			number, len(reply.Text), reply.Asked, answered["answered"])
	}
	return reply, nil
}
