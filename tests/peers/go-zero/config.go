package main

import (
	"time"

	"github.com/zeromicro/go-zero/zrpc"
)

// Server is the configuration of a go-zero service, and what one is like in a test.
type Server struct {
	zrpc.RpcServerConf
	// How long a unary call takes.
	Delay time.Duration `json:",optional"`
	// Calls at once over one connection; 0: as gRPC has it.
	Streams uint32 `json:",optional"`
	// None: without TLS.
	TLS *TLS `json:",optional"`
}

// Client is the configuration of a go-zero client, and which calls it makes.
type Client struct {
	zrpc.RpcClientConf
	// unary, upload, download or chat, in turns.
	Kinds []string `json:",default=[unary]"`
	// So many at once over one connection, each one call after the other.
	Callers int `json:",default=1"`
	// So many calls altogether; 0: until standard input ends.
	Calls int64 `json:",default=1"`
	// Messages each way of a stream.
	Messages int `json:",default=5"`
	// Before each message of a stream.
	Pause time.Duration `json:",optional"`
	// Bytes of a message.
	Size int `json:",default=100"`
	// None: without TLS.
	TLS *TLS `json:",optional"`
}
