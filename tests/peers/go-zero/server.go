package main

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/zeromicro/go-zero/core/conf"
	"github.com/zeromicro/go-zero/zrpc"
	"google.golang.org/grpc"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
)

// The header of an answer that names who gave it.
const serverID = "server-id"

// serve registers the service in etcd and serves it until SIGTERM, as any service of go-zero.
func serve(file string) {
	var config Server
	conf.MustLoad(file, &config)
	server := zrpc.MustNewServer(config.RpcServerConf, func(server *grpc.Server) {
		pb.RegisterTestServiceServer(server, &service{name: config.Name, delay: config.Delay})
	})
	if config.Streams > 0 {
		server.AddOptions(grpc.MaxConcurrentStreams(config.Streams))
	}
	if config.TLS != nil {
		server.AddOptions(grpc.Creds(config.TLS.credentials()))
	}
	defer server.Stop()
	server.Start()
}

type service struct {
	pb.UnimplementedTestServiceServer
	name  string
	delay time.Duration
}

func (s *service) header() metadata.MD {
	return metadata.Pairs(serverID, s.name)
}

func (s *service) UnaryCall(ctx context.Context, in *pb.SimpleRequest) (*pb.SimpleResponse, error) {
	if s.delay > 0 {
		select {
		case <-time.After(s.delay):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	_ = grpc.SetHeader(ctx, s.header())
	return &pb.SimpleResponse{Payload: in.Payload}, nil
}

func (s *service) StreamingInputCall(stream grpc.ClientStreamingServer[pb.StreamingInputCallRequest, pb.StreamingInputCallResponse]) error {
	_ = stream.SetHeader(s.header())
	var sum int32
	for {
		in, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return stream.SendAndClose(&pb.StreamingInputCallResponse{AggregatedPayloadSize: sum})
		}
		if err != nil {
			return err
		}
		sum += int32(len(in.GetPayload().GetBody()))
	}
}

func (s *service) StreamingOutputCall(in *pb.StreamingOutputCallRequest, stream grpc.ServerStreamingServer[pb.StreamingOutputCallResponse]) error {
	_ = stream.SetHeader(s.header())
	return answer(in, stream.Send)
}

func (s *service) FullDuplexCall(stream grpc.BidiStreamingServer[pb.StreamingOutputCallRequest, pb.StreamingOutputCallResponse]) error {
	_ = stream.SetHeader(s.header())
	for {
		in, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = answer(in, stream.Send)
		}
		if err != nil {
			return err
		}
	}
}

// answer sends the messages that are asked for.
func answer(in *pb.StreamingOutputCallRequest, send func(*pb.StreamingOutputCallResponse) error) error {
	for _, wanted := range in.ResponseParameters {
		time.Sleep(time.Duration(wanted.IntervalUs) * time.Microsecond)
		if err := send(&pb.StreamingOutputCallResponse{Payload: payload(int(wanted.Size))}); err != nil {
			return err
		}
	}
	return nil
}

func payload(size int) *pb.Payload {
	return &pb.Payload{Body: make([]byte, size)}
}
