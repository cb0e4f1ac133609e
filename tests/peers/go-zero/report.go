package main

import (
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc/status"
)

// report is what became of the calls so far.
type report struct {
	lock sync.Mutex
	Done bool `json:"done"`
	// By the names of gRPC's status codes.
	Statuses map[string]int `json:"statuses"`
	// Calls that went well, by who answered.
	Servers map[string]int `json:"servers"`
	// The first of those that did not.
	Failures []failure `json:"failures"`
}

type failure struct {
	Status  string `json:"status"`
	Message string `json:"message"`
	// Milliseconds since 1970.
	Began int64 `json:"began"`
}

func newReport() *report {
	return &report{Statuses: map[string]int{}, Servers: map[string]int{}, Failures: []failure{}}
}

func (r *report) add(began time.Time, server string, err error) {
	r.lock.Lock()
	defer r.lock.Unlock()
	code := status.Code(err).String()
	r.Statuses[code]++
	if err == nil {
		r.Servers[server]++
	} else if len(r.Failures) < 1000 {
		r.Failures = append(r.Failures, failure{code, err.Error(), began.UnixMilli()})
	}
}

func (r *report) print(done bool) {
	r.lock.Lock()
	defer r.lock.Unlock()
	r.Done = done
	line, err := json.Marshal(r)
	if err != nil {
		panic(err)
	}
	if _, err := fmt.Println(string(line)); err != nil {
		// Nobody reads it.
		os.Exit(1)
	}
}

// printEvery prints it now and then, until the function that it returns has returned.
func (r *report) printEvery(pause time.Duration) (stop func()) {
	end, over := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(over)
		for {
			select {
			case <-end:
				return
			case <-time.After(pause):
				r.print(false)
			}
		}
	}()
	return func() {
		close(end)
		<-over
	}
}
