package main

import (
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"time"
)

// report is what became of the calls so far.
type report struct {
	lock sync.Mutex
	Done bool `json:"done"`
	// Calls that went well, by who answered; "" where there was no answer to wait for.
	Servers map[string]int `json:"servers"`
	// Calls that did not, by what the client said.
	Errors map[string]int `json:"errors"`
	// The last answer to a call that went well.
	Last Reply `json:"last"`
}

func newReport() *report {
	return &report{Servers: map[string]int{}, Errors: map[string]int{}}
}

func (r *report) add(reply Reply, err error) {
	r.lock.Lock()
	defer r.lock.Unlock()
	if err != nil {
		r.Errors[err.Error()]++
		return
	}
	r.Servers[reply.Server]++
	r.Last = reply
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
