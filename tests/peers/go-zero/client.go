package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zeromicro/go-zero/core/conf"
	"github.com/zeromicro/go-zero/core/logx"
	"github.com/zeromicro/go-zero/zrpc"
	"google.golang.org/grpc"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
)

// call makes the calls, and says on standard output every now and then and at the end what became of them.
func call(file string, ended <-chan struct{}) {
	var config Client
	conf.MustLoad(file, &config)
	// What it says is on standard output.
	logx.Disable()
	var options []zrpc.ClientOption
	if config.TLS != nil {
		options = append(options, zrpc.WithTransportCredentials(config.TLS.credentials()))
	}
	client := caller{pb.NewTestServiceClient(zrpc.MustNewClient(config.RpcClientConf, options...).Conn()), config}
	report := newReport()
	stop := report.printEvery(50 * time.Millisecond)

	var begun atomic.Int64
	var callers sync.WaitGroup
	for range config.Callers {
		callers.Add(1)
		go func() {
			defer callers.Done()
			for {
				select {
				case <-ended:
					return
				default:
				}
				number := begun.Add(1)
				if config.Calls > 0 && number > config.Calls {
					return
				}
				began := time.Now()
				server, err := client.one(config.Kinds[int(number)%len(config.Kinds)])
				report.add(began, server, err)
			}
		}()
	}
	callers.Wait()
	stop()
	report.print(true)
}

type caller struct {
	pb.TestServiceClient
	config Client
}

// one makes one call, and says who answered it.
func (c caller) one(kind string) (string, error) {
	// What go-zero limits is a unary call; a stream lasts as long as its owner lets it.
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var header metadata.MD
	var err error
	switch kind {
	case "unary":
		err = c.unary(ctx, &header)
	case "upload":
		err = c.upload(ctx, &header)
	case "download":
		err = c.download(ctx, &header)
	case "chat":
		err = c.chat(ctx, &header)
	default:
		err = fmt.Errorf("no kind of call %q", kind)
	}
	if names := header.Get(serverID); len(names) == 1 {
		return names[0], err
	}
	return "", err
}

func (c caller) unary(ctx context.Context, header *metadata.MD) error {
	sent := payload(c.config.Size)
	out, err := c.UnaryCall(ctx, &pb.SimpleRequest{Payload: sent}, grpc.Header(header))
	if err != nil {
		return err
	}
	return same(len(sent.Body), len(out.GetPayload().GetBody()))
}

func (c caller) upload(ctx context.Context, header *metadata.MD) error {
	stream, err := c.StreamingInputCall(ctx, grpc.Header(header))
	if err != nil {
		return err
	}
	for range c.config.Messages {
		time.Sleep(c.config.Pause)
		if err := stream.Send(&pb.StreamingInputCallRequest{Payload: payload(c.config.Size)}); err != nil {
			// The cause is with the answer.
			break
		}
	}
	out, err := stream.CloseAndRecv()
	if err != nil {
		return err
	}
	return same(c.config.Messages*c.config.Size, int(out.AggregatedPayloadSize))
}

// wanted asks for so many messages.
func (c caller) wanted(messages int) *pb.StreamingOutputCallRequest {
	request := &pb.StreamingOutputCallRequest{}
	for range messages {
		request.ResponseParameters = append(request.ResponseParameters, &pb.ResponseParameters{
			Size: int32(c.config.Size), IntervalUs: int32(c.config.Pause.Microseconds()),
		})
	}
	return request
}

func (c caller) download(ctx context.Context, header *metadata.MD) error {
	stream, err := c.StreamingOutputCall(ctx, c.wanted(c.config.Messages), grpc.Header(header))
	if err != nil {
		return err
	}
	sum := 0
	for {
		out, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return same(c.config.Messages*c.config.Size, sum)
		}
		if err != nil {
			return err
		}
		sum += len(out.GetPayload().GetBody())
	}
}

// chat sends each message when the one before has been answered.
func (c caller) chat(ctx context.Context, header *metadata.MD) error {
	stream, err := c.FullDuplexCall(ctx, grpc.Header(header))
	if err != nil {
		return err
	}
	for range c.config.Messages {
		if err := stream.Send(c.wanted(1)); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		out, err := stream.Recv()
		if err != nil {
			return err
		}
		if err := same(c.config.Size, len(out.GetPayload().GetBody())); err != nil {
			return err
		}
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("after the last message: %w", err)
	}
	return nil
}

func same(expected, got int) error {
	if expected != got {
		return fmt.Errorf("%d bytes came and %d were expected", got, expected)
	}
	return nil
}
