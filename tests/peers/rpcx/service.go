package main

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"github.com/smallnest/rpcx/share"
)

// Args is what every method is called with.
type Args struct {
	// Comes back as it is.
	Text string
}

// Reply is what every method answers.
type Reply struct {
	Text string
	// Who answered.
	Server string
	// Notes that came so far.
	Notes int64
	// What came as metadata of the call under "asked".
	Asked string
}

// Test is a service that says who it is.
type Test struct {
	name  string
	delay time.Duration
	notes atomic.Int64
}

// Echo answers what it got, and what it got as metadata.
func (t *Test) Echo(ctx context.Context, args *Args, reply *Reply) error {
	time.Sleep(t.delay)
	t.answer(ctx, args, reply)
	return nil
}

// Slow is an Echo that takes a second longer.
func (t *Test) Slow(ctx context.Context, args *Args, reply *Reply) error {
	time.Sleep(time.Second)
	return t.Echo(ctx, args, reply)
}

// Large is an Echo whose answer is a MiB longer.
func (t *Test) Large(ctx context.Context, args *Args, reply *Reply) error {
	t.answer(ctx, args, reply)
	reply.Text += strings.Repeat("x", 1<<20)
	return nil
}

// Fail answers with an error.
func (t *Test) Fail(context.Context, *Args, *Reply) error {
	return errors.New("failed on purpose")
}

// Note is counted, and is meant to be called without waiting for an answer.
func (t *Test) Note(ctx context.Context, args *Args, reply *Reply) error {
	t.notes.Add(1)
	t.answer(ctx, args, reply)
	return nil
}

func (t *Test) answer(ctx context.Context, args *Args, reply *Reply) {
	*reply = Reply{Text: args.Text, Server: t.name, Notes: t.notes.Load()}
	if sent, ok := ctx.Value(share.ReqMetaDataKey).(map[string]string); ok {
		reply.Asked = sent["asked"]
	}
	if answer, ok := ctx.Value(share.ResMetaDataKey).(map[string]string); ok {
		answer["answered"] = t.name
	}
}
