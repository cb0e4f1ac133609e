module witgate/benches/proxy/clients

go 1.24.0
