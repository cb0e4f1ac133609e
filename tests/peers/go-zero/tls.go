package main

import (
	"crypto/tls"
	"crypto/x509"
	"log"
	"os"

	"google.golang.org/grpc/credentials"
)

// TLS is what one side of TLS believes and shows; all are files in PEM. go-zero has no setting for it, and leaves it to gRPC.
type TLS struct {
	// The authorities that are believed. A server that has them wants certificates of clients.
	CA string `json:",optional"`
	// The own certificate and its key. A client need not have them.
	Cert string `json:",optional"`
	Key  string `json:",optional"`
	// The name of the server, as a client asks for it and checks it.
	Name string `json:",optional"`
}

// credentials are those of gRPC.
func (t TLS) credentials() credentials.TransportCredentials {
	config := &tls.Config{ServerName: t.Name, MinVersion: tls.VersionTLS12}
	if t.CA != "" {
		text, err := os.ReadFile(t.CA)
		if err != nil {
			log.Fatal(err)
		}
		believed := x509.NewCertPool()
		if !believed.AppendCertsFromPEM(text) {
			log.Fatalf("no certificate in %s", t.CA)
		}
		config.RootCAs, config.ClientCAs, config.ClientAuth = believed, believed, tls.RequireAndVerifyClientCert
	}
	if t.Cert != "" {
		pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			log.Fatal(err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return credentials.NewTLS(config)
}
