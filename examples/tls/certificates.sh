#!/bin/sh
# Makes an authority, and certificates by it for the gateway, an instance and a client, in the current folder.
# For trying things out: the keys have no password, and everything ends after a month.
set -eu

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj "/CN=example authority" \
  -keyout ca.key -out ca.crt 2>/dev/null

# certificate NAME ALTERNATIVES USE
certificate() {
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$1" -keyout "$1.key" -out "$1.csr" 2>/dev/null
  printf 'subjectAltName = %s\nextendedKeyUsage = %s\n' "$2" "$3" > "$1.ext"
  openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile "$1.ext" -out "$1.crt" 2>/dev/null
  rm "$1.csr" "$1.ext"
}

certificate gateway "DNS:localhost, IP:127.0.0.1, URI:spiffe://example/gateway" "serverAuth, clientAuth"
certificate orders "DNS:orders.internal" "serverAuth"
certificate alice "URI:spiffe://example/alice" "clientAuth"

# Two keys of session tickets. The last but one seals, the newest three open: append one now and then.
[ -e ticket.keys ] || { openssl rand -hex 32; openssl rand -hex 32; } > ticket.keys
